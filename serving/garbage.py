"""Python's cyclic garbage collector, kept from pausing a process that has imported and loaded a lot.

A full collection visits every container of the process with the interpreter lock held. Hundreds of thousands come from
the imports and the models and are never garbage; a request with many values is enough to start one, and all streams
and probes wait for its end.

A few large requests have hundreds of thousands of containers as well, for a moment. So it is not Python that decides
when there is a full collection, which would be in the middle of them, but a thread that waits until there are few,
compared with what is usual and not with what the last one left: that one may have been in their midst. It asks for no
list of them: a reference to a tuple that another thread is making by `tuple` of a generator has that fail.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable

log = logging.getLogger("avito_ai.serving")

NEVER = 1_000_000_000
DUE = 10  # collections of the younger generations, after which Python by itself would make a full one
FEW = 100_000  # blocks of memory more than usual; their containers are visited in some ten milliseconds
LOOK_SECONDS = 0.5
LONG = 20.0  # seconds in which there were not few at any moment: the fewest of that time are what is usual now
LONGEST = 60.0  # seconds that a full collection which is due is put off
REST = 20  # times as long as one has taken there is none, unless that is put off for too long


def exempt_existing_objects() -> None:
    """Collect once, then exempt what is left from all later collections; for the moment before the first request."""
    gc.collect()
    gc.freeze()
    log.debug("%d objects are exempt from garbage collection.", gc.get_freeze_count())


class FullCollections(threading.Thread):
    """Makes the full collections of this process until `end`: Python itself makes none meanwhile.

    interval: seconds between two looks; alive: how many blocks of memory objects have; clock: seconds.
    """

    def __init__(
        self,
        interval: float = LOOK_SECONDS,
        alive: Callable[[], int] = sys.getallocatedblocks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="full-collections", daemon=True)
        self._interval, self._alive, self._clock = interval, alive, clock
        self._usual = self._fewest = alive()
        self._due_since: float | None = None
        self._next = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        usual = gc.get_threshold()
        gc.set_threshold(usual[0], usual[1], NEVER)
        while not self._ended.wait(self._interval):
            self.look()
        gc.set_threshold(*usual)

    def look(self) -> None:
        """Collect, if that is due and quick, or has been put off for long."""
        if gc.get_count()[2] <= DUE:
            self._due_since = None
            return
        now, alive = self._clock(), self._alive()
        if self._due_since is None:
            self._due_since, self._fewest = now, alive
        self._fewest, waited = min(self._fewest, alive), now - self._due_since
        if waited >= LONG:
            self._usual = max(self._usual, self._fewest)  # what is kept has become more
        if (alive - self._usual <= FEW and now >= self._next) or waited >= LONGEST:
            gc.collect()
            self._due_since, ended = None, self._clock()
            self._next = ended + REST * (ended - now)
            self._usual = min(self._usual, self._alive())

    def end(self) -> None:
        """Collect nothing any more, and wait for the end of the thread."""
        self._ended.set()
        self.join()
