"""The rule of a HorizontalPodAutoscaler (autoscaling/v2), which KEDA drives too, on one metric of the service.

Every PERIOD the mean of the metric over the copies, as scraped a period before, is divided by its target; within
TOLERANCE of 1 nothing changes. Copies that start count as idle when more are wanted. Up: at most doubled or 4 more in a
period. Down: to the largest number that was wanted during STABILIZATION. These are Kubernetes' defaults.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.replica import Replica

PERIOD = 15.0  # seconds
TOLERANCE = 0.1
STABILIZATION = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class Signal:
    """A metric of one copy, and the mean that is aimed at."""

    name: str
    read: Callable[[Replica], float]
    target: float


class Autoscaler:
    """Decides how many copies there should be, between `least` and `most`."""

    def __init__(self, signal: Signal, least: int, most: int) -> None:
        self.signal, self._least, self._most = signal, least, most
        self._scraped: float | None = None  # the sum of the metric at the scrape before
        self._recent: deque[int] = deque(maxlen=int(STABILIZATION / PERIOD))

    def wanted(self, ready: Sequence[Replica], starting: int) -> int:
        """Return the number of copies to have; called once every PERIOD."""
        total, self._scraped = self._scraped, sum(self.signal.read(replica) for replica in ready)
        now = len(ready) + starting
        if total is None:
            return now
        wanted = self._by_ratio(total, len(ready), starting)
        wanted = min(max(wanted, self._least), self._most)
        self._recent.append(wanted)
        if wanted > now:
            return min(wanted, max(2 * now, now + 4))
        return min(now, max(self._recent))

    def _by_ratio(self, total: float, ready: int, starting: int) -> int:
        ratio = total / ready / self.signal.target
        now = ready + starting
        if abs(ratio - 1) <= TOLERANCE:
            return now
        if ratio > 1 and starting:
            diluted = total / now / self.signal.target
            return now if diluted <= 1 + TOLERANCE else math.ceil(now * diluted)
        return math.ceil(ready * ratio) if ratio > 1 else min(now, math.ceil(ready * ratio))
