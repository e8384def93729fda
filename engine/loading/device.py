"""Where the models will run: what NVML knows of the machine's GPUs held against what torch can use.

A GPU that is there and cannot be used stops the start, since running on the CPU unasked would only look like working.
NVML is asked because it sees every GPU, whatever CUDA_VISIBLE_DEVICES hides from torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import StartError

log = logging.getLogger("avito_ai.loading")


@dataclass(frozen=True, slots=True)
class Survey:
    """The GPUs of this machine as NVML lists them, in PCI order. trouble: why NVML could not say, "" if it could."""

    gpus: tuple[str, ...] = ()
    driver: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch can use: how many GPUs, and the CUDA it was built for (None: a CPU build)."""

    gpus: int
    cuda: str | None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings ask for. device: `auto`, `cpu` or `cuda`; visible: CUDA_VISIBLE_DEVICES, None if not set."""

    device: str
    visible: str | None
    production: bool


def choose_device(wish: Wish, survey: Callable[[], Survey], torch: Callable[[], Torch]) -> str:
    """Return `cpu` or `cuda`. Raises StartError where that would not be what the operator can have meant."""
    if wish.device == "cpu":
        return "cpu"
    machine, usable = survey(), torch()
    if usable.gpus:
        return "cuda"
    if machine.gpus or machine.trouble:
        raise StartError(_unusable(wish, machine, usable))
    if wish.device == "cuda":
        raise StartError("DEVICE=cuda, but this machine has no NVIDIA GPU: set DEVICE=cpu to run without one.")
    if wish.production:
        raise StartError("This machine has no NVIDIA GPU: in production set DEVICE=cpu to run without one.")
    if wish.visible:
        log.info("CUDA_VISIBLE_DEVICES=%s is ignored: this machine has no NVIDIA GPU.", wish.visible)
    return "cpu"


def survey_machine(nvml: Any = None) -> Survey:
    """Ask NVML for the GPUs of this machine; without a driver there are none. nvml: what stands for pynvml."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return Survey()
    except nvml.NVMLError as error:
        return Survey(trouble=str(error))
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        names = tuple(f"{i}: {nvml.nvmlDeviceGetName(handle)}" for i, handle in enumerate(handles))
        return Survey(names, nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return Survey(trouble=str(error))
    finally:
        nvml.nvmlShutdown()


def ask_torch() -> Torch:
    """Ask torch what it can use; imports it."""
    import torch

    return Torch(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda)


def _unusable(wish: Wish, machine: Survey, usable: Torch) -> str:
    present = f"GPU {', GPU '.join(machine.gpus)}" if machine.gpus else f"an NVIDIA driver ({machine.trouble})"
    setting = "not set" if wish.visible is None else wish.visible or "empty, which hides them all"
    return (
        f"torch can use no GPU, but this machine has {present}. CUDA_VISIBLE_DEVICES is {setting}, the driver is "
        f"{machine.driver or 'unknown'}, torch's CUDA is {usable.cuda or 'none (a build for the CPU)'}. Name a GPU "
        "that is present, install a driver and a torch that fit each other, or set DEVICE=cpu to run without it."
    )
