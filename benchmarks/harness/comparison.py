"""Ratios between servers measured in the same rounds, and whether they meet the targets. Arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from benchmarks.harness.figures import Figures
from benchmarks.harness.targets import Word

# The figures of each round, in the order of the rounds, by server and load.
Measured = Mapping[str, Mapping[str, Sequence[Figures]]]


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


def failures(measured: Measured, server: str, load: str) -> tuple[int, int]:
    """Return how many requests of a load failed, in all rounds, and how many there were."""
    rounds = measured.get(server, {}).get(load, ())
    return sum(figures["failures"] for figures in rounds), sum(figures["requests"] for figures in rounds)


def comparison(measured: Measured, ours: str, peer: str, load: str, path: Sequence[str]) -> Spread | Word:
    """Return the ratio ours / peer, or the word for why there is none.

    Where requests failed on either side, the two did not do the same work: whoever refuses is quick.
    """
    if not all(measured.get(server, {}).get(load) for server in (ours, peer)):
        return Word.NOT_MEASURED
    if any(failures(measured, server, load)[0] for server in (ours, peer)):
        return Word.NOT_COMPARABLE
    return ratio(measured, ours, peer, load, path) or Word.NOT_MEASURED


def verdicts(measured: Measured, ours: str, goals: Sequence[Goal]) -> list[tuple[str, str, str, str]]:
    """Return a row for each target and load: its sentence, the load, the ratio with its spread, and the word."""
    rows: list[tuple[str, str, str, str]] = []
    for goal in goals:
        for load in goal.loads:
            found = comparison(measured, ours, goal.peer, load, goal.path)
            if isinstance(found, Word):
                rows.append((goal.sentence, load, "", found))
            else:
                rows.append((goal.sentence, load, str(found), Word.MET if goal.met(found) else Word.MISSED))
    return rows


def _at(figures: Figures, path: Sequence[str]) -> float | None:
    value: object = figures
    for name in path:
        value = cast("Mapping[str, object]", value)[name]
    return cast("float | None", value)
