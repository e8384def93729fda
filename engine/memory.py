"""How much memory there is for a model: of the GPU, or of the host within the limits of its control group."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_bytes(device: str) -> int:
    """Return how many bytes can be allocated on `cpu` or `cuda` now."""
    if device == "cuda":  # pragma: no cover - CUDA
        free, _ = torch.cuda.mem_get_info()
        return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    limits = [psutil.virtual_memory().available, cgroup_bytes()]
    return min(limit for limit in limits if limit is not None)


def total_bytes(device: str) -> int:
    """Return how many bytes `cpu` or `cuda` has in all, whoever uses them."""
    if device == "cuda":  # pragma: no cover - CUDA
        return int(torch.cuda.mem_get_info()[1])
    return int(psutil.virtual_memory().total)


def cgroup_bytes(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int | None:
    """Return what the control groups (version 2) of this process leave free, None where they set no limit.

    Cached file pages do not count as used: the kernel gives them back under pressure.
    """
    try:
        path = next(line[3:].strip() for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    group = root / path.lstrip("/")
    levels = [level for level in (group, *group.parents) if level.is_relative_to(root)]
    return min((free for level in levels if (free := _free_in(level)) is not None), default=None)


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
