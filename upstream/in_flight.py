"""How many requests an upstream has in flight, by client; the servers queue them, so that none waits here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.errors import BUSY, Overloaded
from engine.schedule.in_flight import InFlight, Wake

OTHERS_SHARE = 8  # one of so many places is kept for other clients


class Capacity:
    """At most `capacity` requests; one client may have all but an eighth, `most_of_one`. Safe for any thread."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.most_of_one = max(1, capacity - capacity // OTHERS_SHARE)
        self._changed = threading.Condition()  # guards the fields below
        self._of_batches = 0  # of those in flight
        self._in_flight = InFlight(capacity, max(1, capacity // 2), clock, self._of_client, lambda: self._of_batches)

    @property
    def total(self) -> int:
        """The requests in flight."""
        return self._in_flight.total

    def would_refuse(self, client: str) -> Overloaded | None:
        """Return what `admit` would refuse a client with at this moment."""
        full = self._full or self._of_client(client) >= self.most_of_one
        return Overloaded(BUSY, 1) if full else None

    def admit(self, client: str) -> None:
        """Count a request. Raises Overloaded."""
        with self._changed:
            if (refusal := self.would_refuse(client)) is not None:
                raise refusal
            self._enter(client)

    def admit_when_free(self, client: str, alone: bool, wake: Wake) -> bool:
        """Count a request of a batch while half of the capacity is free, or if it is the batch's only one.

        All batches together leave a part of the other half free, as in the waiting room of an engine.
        """
        with self._changed:
            in_flight = self._in_flight
            if in_flight.batch_fits(client, alone):
                in_flight.forget(wake)
                self._enter(client)
                self._of_batches += 1
                return True
            in_flight.expect(wake, client, alone)
            return False

    def stop_waiting(self, wake: Wake) -> None:
        """Forget a batch that submits nothing more; if it was woken already, wake another instead."""
        with self._changed:
            if not self._in_flight.forget(wake):
                self._in_flight.wake_batch()

    def leave(self, client: str, of_batch: bool = False) -> None:
        """Count a request no longer."""
        with self._changed:
            self._of_batches -= of_batch
            self._in_flight.leave(client)
            self._in_flight.wake_batch()
            if not self._in_flight.total:
                self._changed.notify_all()

    def wait_until_empty(self, timeout: float) -> None:
        """Wait until no request is in flight, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight.total, timeout)

    @property
    def _full(self) -> bool:
        return self._in_flight.total >= self.capacity

    def _of_client(self, client: str) -> int:
        return self._in_flight.by_client[client]

    def _enter(self, client: str) -> None:
        self._in_flight.enter(client)
        self._in_flight.prepared(client)
