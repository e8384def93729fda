"""What the figures of a card are to be; one that is missed is a problem of its part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.card.record import Row, Rows, problem
from benchmarks.harness.targets import judged

SPEEDS = {1: 150.0, 64: 7_000.0, 128: 10_500.0}  # tokens/s of the 8B in 16 bits on an H100, by clients
CARDS = ("H100", "H200")
LONG_ROW = 1.1  # times the p95 of the gaps without it
ALTERNATION = 0.9


def aimed(what: str, holds: bool, found: str) -> Rows:
    """Yield a verdict, and a problem where it is missed."""
    verdict = judged(what, holds, found)
    yield "targets", {"target": what, "found": found, "verdict": verdict.word.value}
    if not holds:
        yield problem(str(verdict))


def aimed_speeds(speeds: Mapping[int, float], card: str) -> Rows:
    """Yield the verdicts on tokens/s by clients; on other cards there are none. card: its name."""
    for clients, least in SPEEDS.items() if any(name in card for name in CARDS) else ():
        if clients in speeds:
            yield from aimed(
                f"c={clients}: at least {least:,.0f} tokens/s", speeds[clients] >= least, f"{speeds[clients]:,.0f}"
            )


def aimed_gaps(alone: Sequence[Row], beside: Row) -> Rows:
    """Yield the verdict on the p95 of gaps beside a long row, against the mean of those without it."""
    usual, own = [row["p95, ms"] for row in alone], beside["p95, ms"]
    known = [float(str(value)) for value in usual if value is not None]
    if known and own is not None:
        ratio = float(str(own)) * len(known) / sum(known)
        yield from aimed(f"p95 beside a long row: at most {LONG_ROW:g} times", ratio <= LONG_ROW, f"{ratio:.2f}")


def aimed_together(ratio: float | None) -> Rows:
    """Yield the verdict on both models at once, as a share of what they give in turns."""
    if ratio is not None:
        yield from aimed(f"both: at least {ALTERNATION:.0%} of alternation", ratio >= ALTERNATION, f"{ratio:.0%}")
