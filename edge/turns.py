"""Which requests are worked on at once: a few, since their threads share one interpreter lock.

A thread that wants the lock waits the switch interval for each one before it, and again after every system call. With
the threads of a hundred new requests at work, the engine, the poller and its refusals would hardly get on, and the
requests would not be done any sooner. So a thread that begins, or goes on after a wait, takes a turn, and leaves it
before it waits.

A turn goes to the client with the fewest requests in service, so that the hundred of one are not in front of the one of
another. Where the models compute on the cores of these threads, that is not enough: all work for a client with many
times the requests of the others lengthens their answers, and is better not begun while they are served.

Who has waited for PATIENCE seconds goes on beside those that have a turn, a few at once as well; and nobody waits for
longer than LONGEST seconds more, whatever holds the others up.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

AT_ONCE = 2  # on more than one core
PATIENCE = 0.5  # seconds
LATE_AT_ONCE = 4
LONGEST = 5.0
MANY = 8  # requests in service; fewer are never too many for one client
TIMES = 4  # too many are so many times what the others have on average


class Turns:
    """The turns of one process. at_once: how many there are; patience: seconds after which none is waited for.

    late: how many go on without one; longest: seconds after which nobody waits for that. shares_cores: whether a model
    computes on this process's cores, asked with a lock held.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        patience: float = PATIENCE,
        late: int = LATE_AT_ONCE,
        longest: float = LONGEST,
        shares_cores: Callable[[], bool] = lambda: False,
    ) -> None:
        self._service = _InService(shares_cores)
        line = _Line(at_once, self._service)
        self._waits: tuple[_Wait, ...] = ((line, patience), (_Line(late, self._service), longest))

    def enter(self, client: str) -> None:
        """Count a request that a thread is about to serve."""
        self._service.enter(client)

    @contextmanager
    def serving(self, client: str) -> Iterator[None]:
        """Serve a request that has entered, with a turn of its own in this context, for `leave` and `take`."""
        turn = _Turn(self._waits, client)
        token = _turn.set(turn)
        try:
            turn.take()
            yield
        finally:
            self._service.leave(client)
            turn.leave()
            _turn.reset(token)

    def too_many(self, client: str) -> bool:
        """Return whether a client has so many requests in service that the others would notice one more."""
        with self._service.lock:
            return self._service.too_many(client)


class _InService:
    """The requests in service by client, also those that wait for a thread or turn. lock: guards all and the lines."""

    def __init__(self, shares_cores: Callable[[], bool]) -> None:
        self.lock = threading.Lock()
        self._shares_cores = shares_cores
        self._counts: Counter[str] = Counter()
        self._total = 0

    def enter(self, client: str) -> None:
        with self.lock:
            self._counts[client] += 1
            self._total += 1

    def leave(self, client: str) -> None:
        with self.lock:
            self._counts[client] -= 1
            self._total -= 1
            if not self._counts[client]:
                del self._counts[client]

    # --- with the lock held ---

    def number(self, client: str) -> int:
        return self._counts[client]

    def too_many(self, client: str) -> bool:
        own, others = self._counts[client], len(self._counts) - 1
        many = own >= MANY and others > 0 and own * others >= TIMES * (self._total - own)
        return many and self._shares_cores()


class _Line:
    """So many turns, and the places of those who wait for one."""

    def __init__(self, turns: int, service: _InService) -> None:
        self.free, self._service = turns, service
        self._places: list[_Place] = []

    def take(self, client: str, patience: float) -> bool:
        """Wait for a turn, at most `patience` seconds; return whether there was one in time."""
        with self._service.lock:
            if self.free:
                self.free -= 1
                return True
            place = _Place(client)
            self._places.append(place)
        if place.given.acquire(timeout=patience):
            return True
        with self._service.lock:
            if place not in self._places:
                return True  # it was given at the last moment
            self._places.remove(place)
            return False

    def give_back(self) -> None:
        """Give the turn to the client with the fewest requests, the longest waiting one among equals."""
        with self._service.lock:
            if not self._places:
                self.free += 1
                return
            place = min(self._places, key=lambda place: self._service.number(place.client))
            self._places.remove(place)
            place.given.release()


_Wait = tuple[_Line, float]  # what `_Line.take` is called with


class _Place:
    """A place in a line. given: free once it has its turn."""

    __slots__ = ("client", "given")

    def __init__(self, client: str) -> None:
        self.client, self.given = client, threading.Lock()
        self.given.acquire()


class _Turn:
    """The turn of one request, used by its thread alone. waits: for it, one after the other."""

    def __init__(self, waits: tuple[_Wait, ...], client: str) -> None:
        self._waits, self._client = waits, client
        self._held: _Line | None = None

    def take(self) -> None:
        if self._held is None:
            taken = (line for line, patience in self._waits if line.take(self._client, patience))
            self._held = next(taken, None)

    def leave(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.give_back()


_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)


def leave() -> None:
    """Leave this request's turn, if it has one: its thread is about to wait."""
    turn = _turn.get()
    if turn is not None:
        turn.leave()


def take() -> None:
    """Wait for this request's turn, if it needs one: its thread goes on."""
    turn = _turn.get()
    if turn is not None:
        turn.take()
