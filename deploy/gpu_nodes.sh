#!/usr/bin/env bash
# Makes the device nodes that CUDA needs; the unit runs this as root before the service, which may not make them itself.
# On a server without a screen nobody else has made them at boot. Where there is no NVIDIA card it does nothing.
set -euo pipefail

ROOT="${AVITO_AI_ROOT:-}"

grep -qs 0x10de "$ROOT"/sys/bus/pci/devices/*/vendor || exit 0
if ! command -v nvidia-modprobe >/dev/null 2>&1; then
    echo "There is an NVIDIA card and no nvidia-modprobe: CUDA finds its device nodes only if something else makes them." >&2
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
