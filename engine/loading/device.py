"""Chooses the device of each model from the settings, the GPUs that NVML lists and the GPUs that torch can use.

A GPU that is present but unusable stops the start: falling back to the CPU would hide the fault behind a slow service.
NVML is queried because it lists every GPU, including those that CUDA_VISIBLE_DEVICES hides from torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import StartError

log = logging.getLogger("avito_ai.loading")

# What the settings leave open, by kind of device.
BATCHED_TOKENS = {"cpu": 320, "cuda": 2048}  # on the CPU 256 prompt tokens beside 64 decoding rows
# The fixed cost of a step in tokens: measured on the CPU with the demo; on CUDA, reading the weights once.
STEP_OVERHEAD = {"cpu": 8, "cuda": 256}
DTYPES = {"cpu": "float32", "cuda": "float16"}


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
    """The settings. device: `auto`, `cpu` or `cuda`; visible: CUDA_VISIBLE_DEVICES, None if not set.

    setting: the name of the setting that asks for the device.
    """

    device: str
    visible: str | None
    production: bool
    setting: str = "DEVICE"


def choose_devices(
    request: DeviceRequest,
    own: Mapping[str, str | None],
    installed_gpus: Callable[[], InstalledGpus],
    torch_support: Callable[[], TorchSupport],
) -> dict[str, str]:
    """Return `cpu` or `cuda:N` for each setting of `own`, and warn of GPUs that none of them uses. Raises StartError.

    own: the device that the setting of one model names, `cpu`, `cuda` or `cuda:N`; None: that of the request. N counts
    the GPUs that CUDA shows to this process.
    """
    chosen = {
        setting: _resolve(
            replace(request, device=device, setting=setting) if device else request, installed_gpus, torch_support
        )
        for setting, device in own.items()
    }
    if used := set(chosen.values()) - {"cpu"}:
        for unused in sorted({f"cuda:{index}" for index in range(torch_support().gpus)} - used):
            log.warning(
                "The GPU %s is visible and no model uses it: set %s to it, or hide it with CUDA_VISIBLE_DEVICES.",
                unused,
                " or ".join(own),
            )
    elif None in own.values():  # a model's own setting is a choice, while an image for the CPU brings DEVICE=cpu along
        _warn_of_idle_gpus(request.setting, installed_gpus(), torch_support)
    return chosen


def _warn_of_idle_gpus(setting: str, installed: InstalledGpus, torch_support: Callable[[], TorchSupport]) -> None:
    if not installed.gpus and not installed.error:
        return
    log.warning(
        "THE GPU IS NOT USED: this machine has %s, and all models run on the CPU, because of %s=cpu. %s",
        _present(installed),
        setting,
        _CPU_BUILD if torch_support().cuda is None else "Leave that out to use the GPU.",
    )


_CPU_BUILD = (
    "torch is a build for the CPU, too: install the one for CUDA, or in a container build the image with "
    "--build-arg VARIANT=cuda, and leave that setting out."
)


def _resolve(
    request: DeviceRequest, installed_gpus: Callable[[], InstalledGpus], torch_support: Callable[[], TorchSupport]
) -> str:
    kind, _, index = request.device.partition(":")
    if choose_device(replace(request, device=kind), installed_gpus, torch_support) == "cpu":
        return "cpu"
    visible = torch_support().gpus
    if int(index or 0) >= visible:
        raise StartError(
            f"{request.setting}={request.device}, but CUDA shows {visible} GPU{'s' if visible > 1 else ''} to this "
            f"process, counted from cuda:0; CUDA_VISIBLE_DEVICES is {_shown(request.visible)}."
        )
    return f"cuda:{int(index or 0)}"


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
        raise StartError(
            f"{request.setting}=cuda, but this machine has no NVIDIA GPU: set {request.setting}=cpu to run without one."
        )
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
    return (
        f"torch can use no GPU, but this machine has {_present(installed)}. CUDA_VISIBLE_DEVICES is "
        f"{_shown(request.visible)}, the driver is {installed.driver or 'unknown'}, torch's CUDA is "
        f"{usable.cuda or 'none (a build for the CPU)'}. Name a GPU that is present, install a driver and a torch that "
        "fit each other (in a container, the image of VARIANT=cuda), or set DEVICE=cpu to run without it."
    )


def _present(installed: InstalledGpus) -> str:
    return f"GPU {', GPU '.join(installed.gpus)}" if installed.gpus else f"an NVIDIA driver ({installed.error})"


def _shown(visible: str | None) -> str:
    return "not set" if visible is None else visible or "empty, which hides them all"
