"""Who has how many requests in service, and who has to wait for the others' sake.

Where the models compute on the cores of the threads that serve requests, all work for a client with many times the
requests of the others lengthens their answers, and is better not begun while they are served. That is so of many at
once, and of many one after the other as well, each of which is over before the next one comes: a client that had many
times the requests of the others lately begins no more while one of theirs is in service.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, KeysView

MANY = 4  # requests in service; fewer are never too many for one client
OFTEN = 16  # requests begun lately; likewise
BETWEEN = 2  # requests in service, unless more have turns, of who had many lately, while no others are
TIMES = 4  # too many are so many times what the others have, or had, on average
LATELY = 1.0  # seconds, after which requests that were begun count half
COURTESY = 0.3  # seconds that a request waits for the others' sake while its client has many in service
PATIENT = 2.0  # the same, unless told otherwise, while its client had many begun lately


class InService:
    """The requests in service by client, also those that wait for a turn. lock: guards all, and the lines of turns.

    at_once: how many turns there are; shares_cores: whether a model computes on this process's cores, asked with the
    lock held; patient: seconds for which who had many waits for the others' sake.
    """

    def __init__(
        self, at_once: int, shares_cores: Callable[[], bool], clock: Callable[[], float], patient: float
    ) -> None:
        self.lock = threading.Lock()
        self._at_once, self._shares_cores, self._patient = at_once, shares_cores, patient
        self._counts: Counter[str] = Counter()
        self._heavy: Counter[str] = Counter()  # those of them that are not light
        self._total = 0
        self._begun = _Lately(clock)

    def enter(self, client: str, light: bool) -> None:
        """Count a request of a client that is to be served."""
        with self.lock:
            self._counts[client] += 1
            self._total += 1
            if not light:
                self._heavy[client] += 1
                self._begun.count(client)

    def leave(self, client: str, light: bool) -> None:
        """Count one no longer."""
        with self.lock:
            self._total -= 1
            _count_down(self._counts, client)
            if not light:
                _count_down(self._heavy, client)

    # Called with the lock held.

    def number(self, client: str) -> int:
        """Return how many requests of a client are counted."""
        return self._counts[client]

    def number_of(self, client: str, light: bool) -> int:
        """Return how many of them are light, or not."""
        return self._counts[client] - self._heavy[client] if light else self._heavy[client]

    def courtesy(self, client: str, light: bool) -> float:
        """Return how many seconds one more of a client is to wait at most for the others' sake."""
        own = self._counts[client]
        others = len(self._counts) - (own > 0)
        if not light and self._had_many(client) and self._shares_cores():
            return self._patient
        return COURTESY if others and _are_many(own, self._total, others) and self._shares_cores() else 0.0

    def _had_many(self, client: str) -> bool:
        """Return whether a client had its part lately. Between the others' requests it has a few in service.

        What the others have in service counts as theirs lately, too, however long ago it was begun.
        """
        begun = self._begun.of(client)
        if begun < OFTEN:
            return False
        own, total = self._heavy[client], self._heavy.total()
        others = len(self._begun.clients | self._heavy.keys()) - 1
        if begun * others < TIMES * (self._begun.total - begun + total - own):
            return False
        return total > own or (self._begun.total > begun and own >= max(BETWEEN, self._at_once))


def _count_down(counts: Counter[str], client: str) -> None:
    counts[client] -= 1
    if not counts[client]:
        del counts[client]


def _are_many(own: int, total: int, others: int) -> bool:
    """Return whether a client has many of all, and many times what so many others have on average."""
    return own >= MANY and own * others >= TIMES * (total - own)


class _Lately:
    """How many requests each client has begun lately; every LATELY seconds half of them are forgotten."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self.total, self._halved = 0, clock()

    @property
    def clients(self) -> KeysView[str]:
        """Who has begun any."""
        return self._counts.keys()

    def count(self, client: str) -> None:
        self._forget()
        self._counts[client] += 1
        self.total += 1

    def of(self, client: str) -> int:
        self._forget()
        return self._counts[client]

    def _forget(self) -> None:
        times, self._halved = _passed(self._halved, self._clock())
        if times and self.total:
            left = ((client, number >> times) for client, number in self._counts.items())
            self._counts = Counter({client: number for client, number in left if number})
            self.total = self._counts.total()


def _passed(since: float, now: float) -> tuple[int, float]:
    """Return how many whole times LATELY has passed, and when the last of them ended."""
    times = max(0, int((now - since) / LATELY))
    return times, since + times * LATELY
