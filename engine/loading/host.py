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
    """Return how many bytes can be allocated on `cpu` or `cuda` now."""
    if device == "cuda":  # pragma: no cover - CUDA
        free, _ = torch.cuda.mem_get_info()
        return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    limits = [psutil.virtual_memory().available, cgroup_bytes()]
    return min(limit for limit in limits if limit is not None)


def total_bytes(device: str) -> int:
    """Return the total memory of `cpu` or `cuda` in bytes, used and free."""
    if device == "cuda":  # pragma: no cover - CUDA
        return int(torch.cuda.mem_get_info()[1])
    return int(psutil.virtual_memory().total)


def cgroup_bytes(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int | None:
    """Return how many bytes the control groups of this process leave free, None if they set no limit.

    Cached file pages count as free: the kernel reclaims them under memory pressure.
    """
    return min((free for group in _own_groups(root, own) if (free := _free_in(group)) is not None), default=None)


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


def _free_in(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0)))
