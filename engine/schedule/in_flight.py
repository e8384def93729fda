"""The requests in flight by client, the batches that wait to submit, and the rate at which requests end.

A request is in flight from its admission, before any work for it, to its end: while it is prepared, waits and runs. No
lock here: the waiting room holds its own around every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

RATE_MEMORY = 0.9  # weight of the past in the mean time between two ends

Wake = Callable[[], None]


class InFlight:
    """At most `capacity` requests, counted by client.

    slots: how many of them can run; a batch submits while fewer are in flight. clock: seconds, monotonic.
    """

    def __init__(self, capacity: int, slots: int, clock: Callable[[], float]) -> None:
        self.capacity, self.slots, self._clock = capacity, slots, clock
        self.total = 0  # may be read without the lock
        self.by_client: Counter[str] = Counter()
        self.preparing: Counter[str] = Counter()  # of these, those that are not queued yet
        self._batches: dict[Wake, bool] = {}  # waiting to submit, in turn; whether each has nothing in flight
        self._last_end = 0.0
        self.between_ends: float | None = None  # mean, in seconds, of a busy engine

    @property
    def slot_free(self) -> bool:
        """True if the next request can run at once. May be read without the lock."""
        return self.total < self.slots

    def enter(self, client: str) -> None:
        """Count a request that was admitted; it is being prepared."""
        if not self.by_client:
            self._last_end = self._clock()  # idle time says nothing about the rate
        self.by_client[client] += 1
        self.total += 1
        self.preparing[client] += 1

    def prepared(self, client: str) -> None:
        """Count a request as queued."""
        _take_one(self.preparing, client)

    def leave(self, client: str) -> None:
        """Count a request no longer, and wake a batch that may use the capacity."""
        _take_one(self.by_client, client)
        self.total -= 1
        if self._batches:
            self.wake_batch()

    def ended(self) -> None:
        """Measure the time between two ends of requests that ran."""
        now = self._clock()
        gap, past = now - self._last_end, self.between_ends
        self.between_ends = gap if past is None else RATE_MEMORY * past + (1 - RATE_MEMORY) * gap
        self._last_end = now

    def clear(self) -> None:
        """Count only those that are being prepared."""
        self.by_client = Counter(self.preparing)
        self.total = self.by_client.total()
        self.wake_batches()

    # --- batches ---

    def expect(self, wake: Wake, alone: bool) -> None:
        """Let a batch wait for capacity, behind those that wait already; it is woken once."""
        self._batches[wake] = alone

    def forget(self, wake: Wake) -> bool:
        """Let a batch wait no longer; return whether it did."""
        return self._batches.pop(wake, None) is not None

    def wake_batch(self) -> None:
        """Wake the first batch that may submit now; if another request was faster, it has to wait again."""
        total = self.total
        for wake, alone in self._batches.items():
            if total < (self.capacity if alone else self.slots):
                del self._batches[wake]
                wake()
                return

    def wake_batches(self) -> None:
        """Wake every batch that waits."""
        for wake in self._batches:
            wake()
        self._batches.clear()


def _take_one(counts: Counter[str], client: str) -> None:
    counts[client] -= 1
    if counts[client] <= 0:
        del counts[client]
