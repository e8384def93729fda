"""The CPU cores and memory available to this process, within the limits of its control groups.

Source of the limits: Linux control groups version 2 (`cpu.max`, `memory.max`). A service manager sets them on the group
of the process, a container runtime on the root group that the process sees, so every level is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the number of cores that affinity and the control groups' quotas allow, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _own_groups(root, own) or [root] if (quota := _core_quota(group)) is not None]
    return max(1, min([cores, *quotas]))


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


def cgroup_bytes(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int | None:
    """Return how many bytes the control groups of this process leave free, None if they set no limit.

    Cached file pages count as free: the kernel reclaims them under memory pressure.
    """
    return min((free for group in _own_groups(root, own) if (free := _free_in(group)) is not None), default=None)


def cgroup_limit(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int | None:
    """Return the memory limit of this process's control groups in bytes, None if they set none."""
    return min((limit for group in _own_groups(root, own) if (limit := _limit_of(group)) is not None), default=None)


def _own_groups(root: Path, own: Path) -> list[Path]:
    """Return the control group of the process and its ancestors; none if the system has no control groups."""
    try:
        path = next(line[3:].strip() for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = root / path.lstrip("/")
    return [level for level in (group, *group.parents) if level.is_relative_to(root)]


def _core_quota(group: Path) -> int | None:
    """Return the whole cores of a group from `cpu.max` (quota and period in microseconds), None for no quota."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _limit_of(group: Path) -> int | None:
    try:
        return int((group / "memory.max").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _free_in(group: Path) -> int | None:
    if (limit := _limit_of(group)) is None:
        return None
    try:
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, limit - used + int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0)))
