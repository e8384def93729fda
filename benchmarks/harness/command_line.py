"""Options that the programs share: comma-separated numbers, and pinning to a core."""

from __future__ import annotations

import os


def numbers(text: str) -> list[float]:
    """Parse comma-separated numbers."""
    return [float(part) for part in text.split(",") if part]


def whole_numbers(text: str) -> list[int]:
    """Parse comma-separated whole numbers."""
    return [int(part) for part in text.split(",") if part]


def keep_to_core(core: int | None) -> None:
    """Pin this process to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})
