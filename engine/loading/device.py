"""Chooses the device of the models from the settings, the GPUs that NVML lists and the GPUs that torch can use.

A GPU that is present but unusable stops the start: falling back to the CPU would hide the fault behind a slow service.
NVML is queried because it lists every GPU, including those that CUDA_VISIBLE_DEVICES hides from torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import StartError

log = logging.getLogger("avito_ai.loading")


@dataclass(frozen=True, slots=True)
class InstalledGpus:
    """The GPUs of this machine as NVML lists them, in PCI order. error: why NVML failed, "" if it did not."""

    gpus: tuple[str, ...] = ()
    driver: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class TorchSupport:
    """What torch can use: the number of GPUs, and the CUDA version it was built for (None: a CPU build)."""

    gpus: int
    cuda: str | None


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """The settings. device: `auto`, `cpu` or `cuda`; visible: CUDA_VISIBLE_DEVICES, None if not set."""

    device: str
    visible: str | None
    production: bool


def choose_device(
    request: DeviceRequest, installed_gpus: Callable[[], InstalledGpus], torch_support: Callable[[], TorchSupport]
) -> str:
    """Return `cpu` or `cuda`. Raises StartError if the requested device, or a GPU that is present, cannot be used."""
    if request.device == "cpu":
        return "cpu"
    installed, usable = installed_gpus(), torch_support()
    if usable.gpus:
        return "cuda"
    if installed.gpus or installed.error:
        raise StartError(_unusable(request, installed, usable))
    if request.device == "cuda":
        raise StartError("DEVICE=cuda, but this machine has no NVIDIA GPU: set DEVICE=cpu to run without one.")
    if request.production:
        raise StartError("This machine has no NVIDIA GPU: in production set DEVICE=cpu to run without one.")
    if request.visible:
        log.info("CUDA_VISIBLE_DEVICES=%s is ignored: this machine has no NVIDIA GPU.", request.visible)
    return "cpu"


def find_gpus(nvml: Any = None) -> InstalledGpus:
    """Query NVML for the GPUs of this machine; without a driver there are none. nvml: a replacement for pynvml."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return InstalledGpus()
    except nvml.NVMLError as error:
        return InstalledGpus(error=str(error))
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        names = tuple(f"{i}: {nvml.nvmlDeviceGetName(handle)}" for i, handle in enumerate(handles))
        return InstalledGpus(names, nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return InstalledGpus(error=str(error))
    finally:
        nvml.nvmlShutdown()


def find_torch_support() -> TorchSupport:
    """Query torch, which this imports."""
    import torch

    return TorchSupport(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda)


def _unusable(request: DeviceRequest, installed: InstalledGpus, usable: TorchSupport) -> str:
    present = f"GPU {', GPU '.join(installed.gpus)}" if installed.gpus else f"an NVIDIA driver ({installed.error})"
    setting = "not set" if request.visible is None else request.visible or "empty, which hides them all"
    return (
        f"torch can use no GPU, but this machine has {present}. CUDA_VISIBLE_DEVICES is {setting}, the driver is "
        f"{installed.driver or 'unknown'}, torch's CUDA is {usable.cuda or 'none (a build for the CPU)'}. Name a GPU "
        "that is present, install a driver and a torch that fit each other, or set DEVICE=cpu to run without it."
    )
