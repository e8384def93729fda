"""How many batches there are at once: each has a thread for as long as its texts wait, whatever room the model has.

Without a bound, as many batches as there are threads would leave none to anybody else. As many as a client has
must stay free (`engine.shares`), so that the batch of another begins.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from engine.errors import BUSY, Overloaded
from engine.shares import within_share

RETRY_AFTER = 30  # seconds: each try costs an answer of the limit
BEYOND_SLOTS = 16  # batches that have a thread while those of all slots run


class BatchPlaces:
    """The places of one process: one for each of the model's slots, and some beyond. Safe for any thread."""

    def __init__(self, slots: int, beyond: int = BEYOND_SLOTS) -> None:
        self._most = slots + beyond
        self._lock = threading.Lock()  # guards the field below
        self._taken: Counter[str] = Counter()

    def would_refuse(self, client: str) -> Overloaded | None:
        """Return what `take` would refuse a client with at this moment, None if it would have a place."""
        with self._lock:
            return None if self._has_place(client) else Overloaded(BUSY, RETRY_AFTER)

    def take(self, client: str) -> Callable[[], None]:
        """Take a place for a batch; return what gives it back, which may be called again. Raises Overloaded."""
        with self._lock:
            if not self._has_place(client):
                raise Overloaded(BUSY, RETRY_AFTER)
            self._taken[client] += 1
        held = [client]

        def leave() -> None:
            with self._lock:
                if held:
                    self._taken[held.pop()] -= 1
                    self._taken += Counter()  # without those that have none

        return leave

    def _has_place(self, client: str) -> bool:
        free, own = self._most - self._taken.total(), self._taken[client]
        return within_share(own, 1, free) if own else free > 0
