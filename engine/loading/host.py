"""The memory of the machine and its GPUs that is free for this process, within the limits of its control groups."""

from __future__ import annotations

import psutil
import torch

from engine.loading.control_groups import cgroup_bytes


def available_bytes(device: str) -> int:
    """Return how many bytes can be allocated on `cpu`, `cuda` or `cuda:N` now."""
    if device != "cpu":  # pragma: no cover - CUDA
        gpu = _gpu(device)
        free, _ = torch.cuda.mem_get_info(gpu)
        return int(free) + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    limits = [psutil.virtual_memory().available, cgroup_bytes()]
    return min(limit for limit in limits if limit is not None)


def total_bytes(device: str) -> int:
    """Return the total memory of `cpu`, `cuda` or `cuda:N` in bytes, used and free."""
    if device != "cpu":  # pragma: no cover - CUDA
        return int(torch.cuda.get_device_properties(_gpu(device)).total_memory)
    return int(psutil.virtual_memory().total)


def compute_capability(device: str) -> tuple[int, int]:  # pragma: no cover - CUDA
    """Return the compute capability of `cuda` or `cuda:N`."""
    return torch.cuda.get_device_capability(_gpu(device))


def reserved_bytes(device: str) -> int:
    """Return what this process has reserved on `cuda` or `cuda:N` for tensors; 0 on `cpu`."""
    return 0 if device == "cpu" else int(torch.cuda.memory_reserved(_gpu(device)))


def _gpu(device: str) -> int:  # pragma: no cover - CUDA
    """Return the index of a GPU among those that CUDA shows: `cuda` is the first one."""
    return torch.device(device).index or 0
