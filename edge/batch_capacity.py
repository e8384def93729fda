"""How many batches there are at once: each has a thread for as long as its texts wait, whatever room the model has.

Without a bound, as many batches as there are threads would leave none to anybody else. A client may have as many as it
leaves free (`engine.shares`), so that the batch of another begins.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from engine.errors import BUSY, Overloaded
from engine.shares import within_share

RETRY_AFTER = 30  # seconds: each try costs an answer of the limit


class BatchCapacity:
    """The batches of one process, of which there are `most` at once. Safe for any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards the fields below
        self._of: Counter[str] = Counter()  # batches, by client
        self._refused = 0

    def figures(self) -> tuple[int, int, int]:
        """Return how many batches there are, how many there may be, and how many were refused."""
        with self._lock:
            return self._of.total(), self._most, self._refused

    def count_refused(self) -> None:
        """Count a batch that was refused, whatever it was told first."""
        with self._lock:
            self._refused += 1

    def would_refuse(self, client: str) -> Overloaded | None:
        """Return what `admit` would refuse a client with at this moment, None if it would not."""
        with self._lock:
            return None if self._admits(client) else Overloaded(BUSY, RETRY_AFTER)

    def admit(self, client: str) -> Callable[[], None]:
        """Count a batch of a client; return what ends it, which may be called again. Raises Overloaded."""
        with self._lock:
            if not self._admits(client):
                raise Overloaded(BUSY, RETRY_AFTER)
            self._of[client] += 1
        held = [client]

        def leave() -> None:
            with self._lock:
                if held:
                    self._of[held.pop()] -= 1
                    self._of += Counter()  # without those that have none

        return leave

    def _admits(self, client: str) -> bool:
        free, own = self._most - self._of.total(), self._of[client]
        return within_share(own, 1, free) if own else free > 0
