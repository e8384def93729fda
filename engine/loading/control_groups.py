"""The CPU cores and memory that the control groups of this process allow; no torch here.

Source: Linux control groups version 2 (`cpu.max`, `memory.max`). A service manager sets them on the group of the
process, a container runtime on the root group that the process sees, so every level is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the number of cores that affinity and the control groups' quotas allow, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _own_groups(root, own) or [root] if (quota := _core_quota(group)) is not None]
    return max(1, min([cores, *quotas]))


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
