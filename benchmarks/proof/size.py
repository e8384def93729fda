"""How long the proof tries each promise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Size:
    """seconds: of one load; leavers, connections, requests: how many; rounds: how often what happens once is repeated.

    model: Avibe's checkpoint, None for the demo's.
    """

    seconds: float
    leavers: int
    connections: int
    requests: int
    rounds: int
    model: Path | None = None


LONG = Size(seconds=120.0, leavers=1000, connections=530, requests=20_000, rounds=10)
SHORT = Size(seconds=8.0, leavers=80, connections=530, requests=400, rounds=1)
