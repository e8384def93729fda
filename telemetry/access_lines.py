"""How many access lines the refusals of a second may leave: a flood is counted, and fills no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

log = logging.getLogger("avito_ai.access")

LINES_PER_SECOND = 50


class SparseLines:
    """Lets so many lines a second pass, and tells how many more there would have been. Safe to use from any thread.

    clock: seconds, monotonic.
    """

    def __init__(self, a_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = a_second, clock
        self._lock = threading.Lock()  # guards the fields below
        self._until, self._passed = clock(), 0
        self._held: Counter[int] = Counter()

    def level_of(self, status: int) -> int:
        """Return the level of the line of a refusal with this status: logging.NOTSET for none, which is counted."""
        self.tell()
        with self._lock:
            if self._passed < self._most:
                self._passed += 1
                return logging.INFO
            self._held[status] += 1
            return logging.NOTSET

    def tell(self) -> None:
        """Begin a new second if the last one is over; what it held back is logged, as of no request."""
        with self._lock:
            now = self._clock()
            if now < self._until:
                return
            self._until, self._passed = now + 1.0, 0
            held, self._held = self._held, Counter()
        if held:
            told = ", ".join(f"{status}: {number}" for status, number in sorted(held.items()))
            log.info("Refused without a line each within a second, by status: %s", told, extra={"request_id": "-"})


def is_refusal(status: int) -> bool:
    """Return whether a status says that a request is at fault: 501 is that of a transfer coding that is not read."""
    return 400 <= status < 500 or status == 501
