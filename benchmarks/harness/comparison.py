"""Ratios between servers measured in the same rounds, and whether they reach what is aimed at. Arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# figures[server][load]: one summary (figures.summary) for each round, in the order of the rounds.
Measured = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
MISSING = "not measured"


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


@dataclass(frozen=True, slots=True)
class Aim:
    """What is aimed at: in each of `loads` the ratio ours / peer of a figure, its median over the rounds.

    path: into a summary, such as ("first_text_ms", "p50"); least or most: the bound.
    """

    sentence: str
    peer: str
    loads: tuple[str, ...]
    path: tuple[str, ...] = ("tokens_per_second",)
    least: float | None = None
    most: float | None = None

    def met(self, ratio: Spread) -> bool:
        """Return whether a ratio keeps to the bounds."""
        above = self.least is None or ratio.median >= self.least
        return above and (self.most is None or ratio.median <= self.most)


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median and the ends, None without values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def over_rounds(measured: Measured, server: str, load: str, path: Sequence[str]) -> list[float | None]:
    """Return one figure of each round, None where it is not known."""
    return [_at(figures, path) for figures in measured.get(server, {}).get(load, ())]


def ratio(measured: Measured, ours: str, peer: str, load: str, path: Sequence[str]) -> Spread | None:
    """Return ours / peer, each round by itself; None where no round has both."""
    both = zip(over_rounds(measured, ours, load, path), over_rounds(measured, peer, load, path), strict=False)
    return spread([mine / theirs for mine, theirs in both if mine is not None and theirs])


def verdicts(measured: Measured, ours: str, aims: Sequence[Aim]) -> list[tuple[str, str, str, str]]:
    """Return a row for each aim and load: what, the load, the ratio with its spread, met or missed."""
    rows = []
    for aim in aims:
        for load in aim.loads:
            found = ratio(measured, ours, aim.peer, load, aim.path)
            word = MISSING if found is None else "met" if aim.met(found) else "missed"
            rows.append((aim.sentence, load, str(found or ""), word))
    return rows


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for name in path:
        value = value[name]
    return value
