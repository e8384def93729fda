"""How many bytes of request bodies may be in flight: in the process, and of one client.

A client may have half of all, and no more than twice what it leaves free, so that a few of them keep nobody out.

A body is admitted like a request: from its Content-Length before any of it is read, or grown as it comes where its
length is unknown. What was admitted is given back when the request has been answered.
"""

from __future__ import annotations

import threading
from collections import Counter

MOST_OF_LEFT = 2  # times what is left free, as for the buffers of a switch (see `engine.shares`)


class BodyBudget:
    """Bytes of bodies in flight. Safe to use from any thread.

    total: of the process; per_client: of one client, at most `total`. Both in bytes. refusals: how many bodies found no
    room; peak: the most that was ever in flight.
    """

    def __init__(self, total: int, per_client: int) -> None:
        self.total, self.per_client = total, min(per_client, total)
        self.refusals = 0
        self.peak = 0
        self._lock = threading.Lock()  # guards the fields above and below
        self._in_flight = 0
        self._held: Counter[str] = Counter()

    @property
    def most_of_one(self) -> int:
        """Bytes that one client may have in flight where nobody else has any."""
        return min(self.per_client, self.total * MOST_OF_LEFT // (MOST_OF_LEFT + 1))

    @property
    def in_flight(self) -> int:
        """Bytes that are admitted at this moment."""
        return self._in_flight

    def reserve(self, client: str, size: int) -> Reservation | None:
        """Return a reservation of `size` bytes, None where there is no room for them."""
        reservation = Reservation(self, client)
        return reservation if reservation.grow(size) else None

    def _take(self, client: str, size: int) -> bool:
        with self._lock:
            held = self._held[client]
            left = self.total - self._in_flight - size
            if held + size > self.per_client or held + size > MOST_OF_LEFT * left:
                self.refusals += 1
                if not held:
                    del self._held[client]
                return False
            self._in_flight += size
            self._held[client] += size
            self.peak = max(self.peak, self._in_flight)
            return True

    def _give_back(self, client: str, size: int) -> None:
        with self._lock:
            self._in_flight -= size
            self._held[client] -= size
            if not self._held[client]:
                del self._held[client]


class Reservation:
    """The bytes of one body. Belongs to one thread at a time."""

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self._budget, self._client = budget, client
        self.size = 0

    def grow(self, size: int) -> bool:
        """Take `size` more bytes; False, and nothing taken, where there is no room for them."""
        if size and not self._budget._take(self._client, size):
            return False
        self.size += size
        return True

    def release(self) -> None:
        """Give everything back; harmless when done already."""
        size, self.size = self.size, 0
        if size:
            self._budget._give_back(self._client, size)
