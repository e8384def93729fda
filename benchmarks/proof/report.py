"""What a program of the proof measured, beside what was promised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured figure. limit: the promise; at_least: the figure must reach it rather than stay under it.

    measured: None where the figure could not be had, which breaks the promise.
    """

    figure: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        if self.measured is None or self.measured != self.measured:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def row(self, program: str) -> tuple[str, ...]:
        """Return the cells of a table."""
        sign = ">=" if self.at_least else "<="
        measured = "none" if self.measured is None else f"{self.measured:,.4g}"
        return program, self.figure, measured, f"{sign} {self.limit:,.4g}", "yes" if self.holds else "**NO**"


@dataclass(slots=True)
class Report:
    """The outcome of one program. tried: how many requests or faults; lost: how many had another end than promised.

    losses: what was lost, in words, with how often; client_cpu: the share of one core that the load generator took.
    """

    program: str
    promise: str
    tried: int = 0
    lost: int = 0
    findings: list[Finding] = field(default_factory=list)
    losses: dict[str, int] = field(default_factory=dict)
    client_cpu: float = 0.0
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept; none is where nothing was tried."""
        return self.tried > 0 and not self.lost and all(finding.holds for finding in self.findings)

    def check(self, figure: str, measured: float | None, limit: float, at_least: bool = False) -> None:
        """Add a figure."""
        self.findings.append(Finding(figure, measured, limit, at_least))

    def count(self, trouble: str | None) -> None:
        """Count one thing that was tried; trouble: what was lost by it, None for nothing."""
        self.tried += 1
        if trouble:
            self.lost += 1
            self.losses[trouble] = self.losses.get(trouble, 0) + 1


def percentile(values: Iterable[float | None], share: float) -> float | None:
    """Return the smallest value that `share` percent of the values do not exceed, None without any values."""
    known = sorted(value for value in values if value is not None)
    return known[min(len(known) - 1, int(len(known) * share / 100))] if known else None


def as_if_asked(waits: Iterable[float], every: float) -> list[float]:
    """Return the waits of one who asks after each answer as they are for all who ask `every` so many seconds.

    They ask on while an answer is late, and wait for its rest; else a stall of a minute would count once.
    """
    return [waited - missed * every for waited in waits for missed in range(max(1, math.ceil(waited / every)))]


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds."""
    return None if seconds is None else seconds * 1e3


FINDINGS = ("program", "figure", "measured", "promised", "holds")
TRIED = ("program", "what is promised", "tried", "lost", "client's CPU", "what was lost")


def rows(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """Return a row for each figure."""
    return [finding.row(report.program) for report in reports for finding in report.findings]


def summary(reports: Sequence[Report]) -> list[tuple[str, ...]]:
    """Return a row for each program."""
    return [
        (
            report.program,
            report.promise,
            f"{report.tried:,}" if report.tried else "**nothing**",
            f"{report.lost:,}",
            f"{report.client_cpu:.0%}",
            "; ".join(f"{what} ({times})" for what, times in sorted(report.losses.items())) or "nothing",
        )
        for report in reports
    ]
