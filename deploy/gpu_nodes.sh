#!/usr/bin/env bash
# Creates the device nodes that CUDA needs. The unit runs it as root before the service, which is not allowed to; on a
# headless server nothing else creates them at boot. Without an NVIDIA card it does nothing.
set -euo pipefail

ROOT="${AVITO_AI_ROOT:-}"

grep -qs 0x10de "$ROOT"/sys/bus/pci/devices/*/vendor || exit 0
if ! command -v nvidia-modprobe >/dev/null 2>&1; then
    echo "There is an NVIDIA card, but no nvidia-modprobe: CUDA needs its device nodes to be created otherwise." >&2
    exit 0
fi
# The first call loads the driver, which then lists its cards.
nvidia-modprobe -c 0
minor=0
for _ in "$ROOT"/proc/driver/nvidia/gpus/*; do
    nvidia-modprobe -c "$minor"
    minor=$((minor + 1))
done
nvidia-modprobe -u -c 0
