"""Turns the outcomes of requests into figures: percentiles, tokens per second, goodput. No clock, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

SHARES = (50, 95, 99)
UNKNOWN = "n/a"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request, in seconds from when it was due.

    seconds: until its end; first: until the first text, None if the answer came in one piece; gaps: between later
    arrivals of text; error: why it failed, None if it succeeded.
    """

    seconds: float
    tokens: int = 0
    first: float | None = None
    gaps: Sequence[float] = field(default=())
    error: str | None = None

    @property
    def per_token(self) -> float | None:
        """Mean seconds per token after the first, None if unknown."""
        return None if self.first is None or self.tokens < 2 else (self.seconds - self.first) / (self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Objective:
    """A latency objective, in seconds: time to first text, and mean time per token after it.

    Goodput counts the requests that meet both (DistServe, OSDI 2024).
    """

    first: float = 1.0
    per_token: float = 0.1

    def met(self, outcome: Outcome) -> bool:
        """Return whether a request met the objective; a failed one never does."""
        if outcome.error is not None or outcome.first is None or outcome.first > self.first:
            return False
        return outcome.per_token is None or outcome.per_token <= self.per_token


# Milliseconds by percentile ("p50"), None if unknown.
Percentiles = dict[str, float | None]


class Figures(TypedDict):
    """The figures of one load; None where nothing is known."""

    seconds: float
    requests: int
    failures: int
    errors: dict[str, int]
    tokens: int
    tokens_per_second: float
    requests_per_second: float
    first_text_ms: Percentiles
    gap_ms: Percentiles
    per_token_ms: Percentiles
    whole_ms: Percentiles
    goodput_share: float | None
    goodput_requests_per_second: float | None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile by linear interpolation, None without values."""
    return float(np.percentile(np.asarray(values, dtype=float), percent)) if len(values) else None


def summary(outcomes: Sequence[Outcome], seconds: float, objective: Objective) -> Figures:
    """Return the figures of one load that took `seconds`."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    streamed = [outcome for outcome in good if outcome.first is not None]
    met = sum(objective.met(outcome) for outcome in outcomes)
    return {
        "seconds": seconds,
        "requests": len(outcomes),
        "failures": len(outcomes) - len(good),
        "errors": dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
        "tokens": sum(outcome.tokens for outcome in good),
        "tokens_per_second": sum(outcome.tokens for outcome in good) / seconds,
        "requests_per_second": len(good) / seconds,
        "first_text_ms": _spread([outcome.first for outcome in streamed]),
        "gap_ms": _spread([gap for outcome in streamed for gap in outcome.gaps]),
        "per_token_ms": _spread([o.per_token for o in streamed if o.per_token is not None]),
        "whole_ms": _spread([outcome.seconds for outcome in good]),
        "goodput_share": met / len(outcomes) if streamed else None,
        "goodput_requests_per_second": met / seconds if streamed else None,
    }


def _spread(seconds: Sequence[float | None]) -> Percentiles:
    known = [value * 1e3 for value in seconds if value is not None]
    return {f"p{share}": percentile(known, share) for share in SHARES}


HEADER = (
    "load",
    "tokens/s",
    "requests/s",
    "first text p50 / p95 / p99, ms",
    "gap p50 / p95 / p99, ms",
    "whole answer p50 / p95 / p99, ms",
    "goodput",
    "failed",
)


def row(name: str, figures: Figures) -> tuple[str, ...]:
    """Return one load's figures as the cells under HEADER."""
    share, goodput = figures["goodput_share"], figures["goodput_requests_per_second"]
    return (
        name,
        f"{figures['tokens_per_second']:.1f}",
        f"{figures['requests_per_second']:.2f}",
        _shown(figures["first_text_ms"].values()),
        _shown(figures["gap_ms"].values()),
        _shown(figures["whole_ms"].values()),
        UNKNOWN if share is None else f"{goodput:.2f}/s ({share:.0%})",
        f"{figures['failures']} of {figures['requests']}",
    )


def _shown(values: Iterable[float | None]) -> str:
    known = [f"{value:.1f}" for value in values if value is not None]
    return " / ".join(known) or UNKNOWN
