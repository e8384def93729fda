"""Ratios between servers measured in the same rounds, and whether they meet the targets. Arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from benchmarks.harness.figures import Figures

# The figures of each round, in the order of the rounds, by server and load.
Measured = Mapping[str, Mapping[str, Sequence[Figures]]]
MISSING = "not measured"


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of a figure over the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """A target: bounds on the median over the rounds of the ratio ours / peer of a figure, in each of `loads`.

    path: of the figure in Figures, such as ("first_text_ms", "p50"); least, most: the bounds.
    """

    sentence: str
    peer: str
    loads: tuple[str, ...]
    path: tuple[str, ...] = ("tokens_per_second",)
    least: float | None = None
    most: float | None = None

    def met(self, ratio: Spread) -> bool:
        """Return whether a ratio is within the bounds."""
        above = self.least is None or ratio.median >= self.least
        return above and (self.most is None or ratio.median <= self.most)


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median and the extremes, None without values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def over_rounds(measured: Measured, server: str, load: str, path: Sequence[str]) -> list[float | None]:
    """Return one figure of each round, None where it is unknown."""
    return [_at(figures, path) for figures in measured.get(server, {}).get(load, ())]


def ratio(measured: Measured, ours: str, peer: str, load: str, path: Sequence[str]) -> Spread | None:
    """Return the spread of ours / peer computed within each round; None if no round has both."""
    both = zip(over_rounds(measured, ours, load, path), over_rounds(measured, peer, load, path), strict=False)
    return spread([mine / theirs for mine, theirs in both if mine is not None and theirs])


def verdicts(measured: Measured, ours: str, goals: Sequence[Goal]) -> list[tuple[str, str, str, str]]:
    """Return a row for each target and load: its sentence, the load, the ratio with its spread, met or missed."""
    rows = []
    for goal in goals:
        for load in goal.loads:
            found = ratio(measured, ours, goal.peer, load, goal.path)
            word = MISSING if found is None else "met" if goal.met(found) else "missed"
            rows.append((goal.sentence, load, str(found or ""), word))
    return rows


def _at(figures: Figures, path: Sequence[str]) -> float | None:
    value: object = figures
    for name in path:
        value = cast("Mapping[str, object]", value)[name]
    return cast("float | None", value)
