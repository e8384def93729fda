"""Whether this machine has an NVIDIA GPU, as the driver's library says, without torch; and torch's memory on it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def configure_allocator(environ: MutableMapping[str, str]) -> None:
    """Let torch's allocator on a GPU grow its segments, which leaves fewer holes that no tensor fits.

    torch reads it once, before it uses a GPU. What configures the allocator already is kept, by the name that torch has
    now or by the older one, which torch reads first.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in environ:
        environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


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
