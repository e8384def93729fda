"""What the programs' command lines share: lists of numbers, and the core that a process keeps to."""

from __future__ import annotations

import os


def numbers(text: str) -> list[float]:
    """Read a list with commas."""
    return [float(part) for part in text.split(",") if part]


def whole_numbers(text: str) -> list[int]:
    """Read a list with commas."""
    return [int(part) for part in text.split(",") if part]


def keep_to_core(core: int | None) -> None:
    """Keep this process, the client, to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})
