"""How many processor threads the engine may use: what this process is allowed, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu_max: Path = CGROUP_CPU_MAX) -> int:
    """Return the number of cores that affinity and the control group's quota allow, at least 1.

    Source: the kernel's documentation of control group v2, `cpu.max`: quota and period in microseconds.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        allowed = cores if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        allowed = cores
    return max(1, min(cores, allowed))
