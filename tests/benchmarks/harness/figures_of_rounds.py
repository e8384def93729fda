"""Invented figures of rounds."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.figures import Objective, Outcome, summary


def rounds(*speeds: float) -> list[dict[str, Any]]:
    """Return a summary for each round, with the given tokens per second and a first text after 1 / speed."""
    return [
        summary([Outcome(1.0, tokens=int(speed), first=1 / speed, gaps=(0.01,))], 1.0, Objective()) for speed in speeds
    ]
