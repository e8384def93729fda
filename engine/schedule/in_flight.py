"""The requests in flight by client, the batches that wait to submit, and the rate at which requests end.

A request is in flight from its admission, before any work for it, to its end: while it is prepared, waits and runs. No
lock here: the waiting room holds its own around every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from engine.shares import left_of_share, most_alone, within_share

RATE_MEMORY = 0.9  # weight of the past in the mean time between two ends

Wake = Callable[[], None]


class InFlight:
    """At most `capacity` requests, counted by client.

    slots: how many of them can run; a batch submits while fewer are in flight. clock: seconds, monotonic.
    waiting_of, waiting_of_batches: return how many requests of a client, and of batches, are in flight and may have to
    wait.
    """

    def __init__(
        self,
        capacity: int,
        slots: int,
        clock: Callable[[], float],
        waiting_of: Callable[[str], int],
        waiting_of_batches: Callable[[], int],
    ) -> None:
        self.capacity, self.slots, self._clock = capacity, slots, clock
        self._waiting_of, self._waiting_of_batches = waiting_of, waiting_of_batches
        self.total = 0  # may be read without the lock
        self.by_client: Counter[str] = Counter()
        self.preparing: Counter[str] = Counter()  # of these, those that are not queued yet
        self.preparing_of_batches = 0
        self._batches: dict[Wake, tuple[str, bool]] = {}  # waiting, in turn: the client, whether nothing is in flight
        self._last_end = 0.0
        self.between_ends: float | None = None  # mean, in seconds, of a busy engine

    @property
    def slot_free(self) -> bool:
        """True if the next request can run at once. May be read without the lock."""
        return self.total < self.slots

    @property
    def free(self) -> int:
        """How many more can be admitted."""
        return self.capacity - self.total

    @property
    def most_of_one(self) -> int:
        """How many requests one client may have in flight where nobody else has any."""
        return max(1, self.slots + most_alone(self.capacity - self.slots))

    def waiting(self, client: str) -> int:
        """Return how many requests of a client have to wait; those that find a slot do only until they start."""
        return min(self._waiting_of(client), self.total - self.slots)

    def enter(self, client: str, of_batch: bool = False) -> None:
        """Count a request that was admitted; it is being prepared."""
        if not self.by_client:
            self._last_end = self._clock()  # idle time says nothing about the rate
        self.by_client[client] += 1
        self.total += 1
        self.preparing[client] += 1
        self.preparing_of_batches += of_batch

    def prepared(self, client: str, of_batch: bool = False) -> None:
        """Count a request as queued. of_batch: as for its `enter`."""
        _take_one(self.preparing, client)
        self.preparing_of_batches -= of_batch

    def leave(self, client: str) -> None:
        """Count a request no longer."""
        _take_one(self.by_client, client)
        self.total -= 1

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

    def expect(self, wake: Wake, client: str, alone: bool) -> None:
        """Let a batch wait for capacity, behind those of its client that wait already; it is woken once."""
        self._batches[wake] = client, alone

    def forget(self, wake: Wake) -> bool:
        """Let a batch wait no longer; return whether it did."""
        return self._batches.pop(wake, None) is not None

    def batch_fits(self, client: str, alone: bool) -> bool:
        """Return whether a batch may submit: at once into a free slot, else if it has nothing in flight.

        What waits of all batches is then within the share of one client, and what waits of this client within its share
        of that; one request may take the last place.
        """
        if self.slot_free or not alone:
            return self.slot_free
        left = self._left_for_batches()
        return within_share(self.waiting(client), 1, left) if client in self.by_client else left > 0

    def wake_batch(self) -> None:
        """Wake a batch that may submit now, of the client with the fewest requests in flight, among equals the one that
        has waited longest; if another request was faster, it has to wait again.
        """
        if not self._batches or not (self.slot_free or self._left_for_batches() > 0):
            return
        fits = dict[tuple[str, bool], bool]()  # a client may have hundreds
        for wake, whose in sorted(self._batches.items(), key=lambda one: self.by_client[one[1][0]]):
            if whose not in fits:
                fits[whose] = self.batch_fits(*whose)
            if fits[whose]:
                del self._batches[wake]
                wake()
                return

    def wake_batches(self) -> None:
        """Wake every batch that waits."""
        for wake in self._batches:
            wake()
        self._batches.clear()

    def _left_for_batches(self) -> int:
        return left_of_share(min(self._waiting_of_batches(), self.total - self.slots), self.free)


def _take_one(counts: Counter[str], client: str) -> None:
    counts[client] -= 1
    if counts[client] <= 0:
        del counts[client]
