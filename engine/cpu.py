"""How many processor threads the engine may use: what this process is allowed, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the number of cores that affinity and the quotas of the control groups allow, at least 1.

    A service manager's quota stands on the process's own group, a container's on the root it sees: all levels count.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = [quota for level in _levels(root, own) if (quota := _quota(level)) is not None]
    return max(1, min(cores, *allowed)) if allowed else cores


def _levels(root: Path, own: Path) -> list[Path]:
    """Return the process's control group (version 2) and all above it."""
    try:
        path = next(line[3:].strip() for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return [root]
    group = root / path.lstrip("/")
    return [level for level in (group, *group.parents) if level.is_relative_to(root)]


def _quota(group: Path) -> int | None:
    """Return a group's whole cores. Source: the kernel's `cpu.max`, quota and period in microseconds."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
