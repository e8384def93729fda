"""How long steps take by their number of rows, as measured lately."""

from __future__ import annotations

MEMORY = 0.8  # weight of the past in the mean
FRESH = 512  # steps for which a measurement counts


class StepTimes:
    """Estimates the time of a decode step. overhead: its fixed cost in rows, while nothing better is known.

    A step does not become longer evenly: products of five rows may take twice as long as those of four.
    """

    def __init__(self, overhead: float) -> None:
        self._overhead = overhead
        self._means: dict[int, tuple[float, int]] = {}  # from rows to seconds, and the step of the last measurement
        self._steps = 0

    def learn(self, rows: int, seconds: float) -> None:
        """Take the time of a step of so many rows."""
        self._steps += 1
        if seconds > 0:
            old = self._fresh(rows)
            self._means[rows] = (seconds if old is None else MEMORY * old + (1 - MEMORY) * seconds, self._steps)

    def estimate(self, rows: int) -> float:
        """Return the time of a step of so many rows; a ratio of two estimates has a meaning, one alone need not."""
        if (own := self._fresh(rows)) is not None:
            return own
        known = min((r for r in self._means if self._fresh(r) is not None), key=lambda r: abs(r - rows), default=None)
        if known is None:
            return rows + self._overhead
        return self._means[known][0] * (rows + self._overhead) / (known + self._overhead)

    def _fresh(self, rows: int) -> float | None:
        seconds, at = self._means.get(rows, (0.0, -FRESH))
        return seconds if self._steps - at < FRESH else None
