"""Figures of the machine: CPU, memory and disk from psutil, GPU from torch and NVML.

Torch is never imported here: the import takes seconds and happens in the thread that loads the models. Until then the
GPU counts as absent, as does one whose driver fails.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import psutil

GIB = 1024**3
# Minimum interval between two measurements of the load, in CPU seconds over all cores.
SHORTEST_INTERVAL = 0.1
NO_GPU: dict[str, str | bool] = {
    "available": False,
    "gpu_name": "none",
    "gpu_memory_allocated_gb": "0.00",
    "gpu_memory_reserved_gb": "0.00",
    "gpu_memory_total_gb": "0.00",
    "gpu_utilization": "0.00%",
}


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """One GPU as this process sees it. Sizes in bytes; busy: utilization, 0 to 1, None if unknown.

    device: as the settings name it, counted among the visible GPUs.
    """

    name: str
    allocated: int
    reserved: int
    total: int
    busy: float | None = None
    device: str = "cuda:0"


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """The host. Utilization in percent, memory in bytes."""

    cpu_percent: float
    memory_percent: float
    memory_available: int
    disk_percent: float


class Machine(Protocol):
    """The seam to the hardware."""

    def system(self) -> SystemFigures:
        """Return the host's current figures."""

    def gpus(self) -> tuple[GpuFigures, ...]:
        """Return the figures of the GPUs in use; none without one."""

    def gpu_memory(self) -> int | None:
        """Return their total memory in bytes without querying the driver, for probes; None without a GPU in use."""


class CpuTimes(Protocol):
    """The seconds of `psutil.cpu_times`, by kind."""

    def _asdict(self) -> dict[str, float]:
        """Return them by name."""


class Processors:
    """CPU utilization since the previous measurement by any thread.

    psutil's `cpu_percent` keeps its state per thread, which gives wrong figures in a thread pool.
    times: returns the seconds spent by kind, as `psutil.cpu_times`.
    """

    def __init__(self, times: Callable[[], CpuTimes] = psutil.cpu_times) -> None:
        self._times = times
        self._lock = threading.Lock()  # guards the fields below
        self._idle, self._total = self._look()
        self._percent = 0.0

    def percent(self) -> float:
        """Return the utilization in percent; measurements in quick succession return the same value."""
        with self._lock:
            idle, total = self._look()
            if total - self._total >= SHORTEST_INTERVAL:
                self._percent = 100 * (1 - (idle - self._idle) / (total - self._total))
                self._idle, self._total = idle, total
            return min(100.0, max(0.0, self._percent))

    def _look(self) -> tuple[float, float]:
        times = self._times()._asdict()
        # Linux includes guest time in user time.
        total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
        return times["idle"] + times.get("iowait", 0.0), total


class ThisMachine:
    """The machine that the service runs on. imported_torch: returns torch once its import is complete, else None."""

    def __init__(
        self, imported_torch: Callable[[], ModuleType | None] | None = None, nvml: ModuleType | None = None
    ) -> None:
        self._imported_torch = imported_torch or _imported_torch
        self._nvml = nvml
        self._processors = Processors()

    def system(self) -> SystemFigures:
        memory = psutil.virtual_memory()
        return SystemFigures(
            self._processors.percent(), memory.percent, memory.available, psutil.disk_usage("/").percent
        )

    def gpus(self) -> tuple[GpuFigures, ...]:
        with contextlib.suppress(Exception):  # a failing driver must not fail the caller
            cuda = self._cuda_in_use()
            return tuple(self._figures(cuda, index) for index in _used(cuda))
        return ()

    def gpu_memory(self) -> int | None:
        with contextlib.suppress(Exception):
            cuda = self._cuda_in_use()
            return sum(int(cuda.get_device_properties(index).total_memory) for index in _used(cuda))
        return None

    def _figures(self, cuda: ModuleType, index: int) -> GpuFigures:
        properties = cuda.get_device_properties(index)
        return GpuFigures(
            name=properties.name,
            allocated=cuda.memory_allocated(index),
            reserved=cuda.memory_reserved(index),
            total=properties.total_memory,
            busy=self._busy(getattr(properties, "uuid", None)),
            device=f"cuda:{index}",
        )

    def _cuda_in_use(self) -> ModuleType:
        """Return torch.cuda. Raises LookupError while this process does not use a GPU."""
        torch = self._imported_torch()
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            raise LookupError
        cuda: ModuleType = torch.cuda
        return cuda

    def _busy(self, uuid: object) -> float | None:
        """Return the utilization from NVML, by UUID, since NVML's indexes ignore CUDA_VISIBLE_DEVICES."""
        with contextlib.suppress(Exception):  # no library, driver or permission: unknown
            if self._nvml is None:
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
            handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        return None


def shown_system(figures: SystemFigures) -> dict[str, str]:
    """Return the host's figures in the form that dashboards read."""
    return {
        "cpu_percent": f"{figures.cpu_percent:.1f}%",
        "memory_percent": f"{figures.memory_percent:.1f}%",
        "memory_available_gb": f"{figures.memory_available / GIB:.1f}",
        "disk_percent": f"{figures.disk_percent:.1f}%",
    }


def _used(cuda: ModuleType) -> list[int]:
    """Return the GPUs that hold memory of this process, the first one before any does."""
    return [index for index in range(cuda.device_count()) if cuda.memory_reserved(index)] or [0]


def shown_gpu(figures: GpuFigures | None) -> dict[str, str | bool]:
    """Return the GPU's figures in that form; `gpu_utilization` is allocated over total memory.

    Without a GPU the names are the same, so that what reads them finds each.
    """
    if figures is None:
        return NO_GPU.copy()
    shown: dict[str, str | bool] = {
        "gpu_name": figures.name,
        "gpu_memory_allocated_gb": f"{figures.allocated / GIB:.1f}",
        "gpu_memory_reserved_gb": f"{figures.reserved / GIB:.1f}",
        "gpu_memory_total_gb": f"{figures.total / GIB:.1f}",
        "gpu_utilization": f"{100 * figures.allocated / figures.total:.2f}%",
    }
    if figures.busy is not None:
        shown["gpu_busy"] = f"{100 * figures.busy:.0f}%"
    return shown


def _imported_torch() -> ModuleType | None:
    torch = sys.modules.get("torch")
    return None if torch is None or getattr(torch.__spec__, "_initializing", False) else torch
