"""Whether this machine has an NVIDIA GPU, as the driver's library says, without torch."""

from __future__ import annotations

from typing import Any


def has_gpu(nvml: Any = None) -> bool:
    """Return whether NVML lists a GPU; False without a driver, or where it fails. nvml: a replacement for pynvml."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return False
    try:
        return int(nvml.nvmlDeviceGetCount()) > 0
    except nvml.NVMLError:
        return False
    finally:
        nvml.nvmlShutdown()
