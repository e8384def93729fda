"""Which requests are worked on at once: a few, since their threads share one interpreter lock.

A thread that wants the lock waits the switch interval for each one before it, and again after every system call. With
the threads of a hundred new requests at work, the engine, the poller and its refusals would hardly get on, and the
requests would not be done any sooner. So a thread that begins, or goes on after a wait, takes a turn, and leaves it
before it waits.

A turn goes to the client with the fewest requests in service, so that the hundred of one are not in front of the one of
another. Where the models compute on the cores of these threads, a client with many times the requests of the others
waits for COURTESY seconds even while a turn is free, since its work would lengthen their answers.

Who has waited for PATIENCE seconds goes on beside those that have a turn, a few at once as well; and nobody waits for
longer than LONGEST seconds more, whatever holds the others up.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

AT_ONCE = 2
COURTESY = 0.3  # seconds
PATIENCE = 0.5  # seconds, with those of courtesy
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
        self._line = line = _Line(at_once, self._service)
        courtesy = min(COURTESY, patience)
        self._waits: tuple[_Wait, ...] = (
            (line, True, courtesy),
            (line, False, patience - courtesy),
            (_Line(late, self._service), False, longest),
        )

    @contextmanager
    def serving(self, client: str = "unknown") -> Iterator[None]:
        """Serve a client's request in this context, with a turn of its own; `leave` and `take` are about that one."""
        turn = _Turn(self._waits, client)
        token = _turn.set(turn)
        self._service.enter(client)
        try:
            turn.take()
            yield
        finally:
            self._service.leave(client)
            turn.leave()
            self._line.give()  # somebody may have waited for this client
            _turn.reset(token)


class _InService:
    """The requests in service by client, those that wait for a turn too. lock: guards these, and every line."""

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

    def must_wait(self, client: str) -> bool:
        """Return whether a client has so many requests that the others would notice."""
        own, others = self._counts[client], len(self._counts) - 1
        many = own >= MANY and others > 0 and own * others >= TIMES * (self._total - own)
        return many and self._shares_cores()


class _Line:
    """So many turns, and the places of those who wait for one."""

    def __init__(self, turns: int, service: _InService) -> None:
        self.free, self._service = turns, service
        self._places: list[_Place] = []

    def take(self, client: str, courteous: bool, patience: float) -> bool:
        """Wait for a turn; return whether there was one in time.

        courteous: whether it does not take a free one while its client has too many requests; patience: in seconds.
        """
        with self._service.lock:
            if self.free and not (courteous and self._service.must_wait(client)):
                self.free -= 1
                return True
            place = _Place(client, courteous)
            self._places.append(place)
        if place.given.acquire(timeout=patience):
            return True
        with self._service.lock:
            if place not in self._places:
                return True  # it was given at the last moment
            self._places.remove(place)
            return False

    def give_back(self) -> None:
        with self._service.lock:
            self.free += 1
        self.give()

    def give(self) -> None:
        """Give what is free to the clients with the fewest requests, the longest waiting one among equals."""
        with self._service.lock:
            while self.free and (place := self._next()) is not None:
                self._places.remove(place)
                self.free -= 1
                place.given.release()

    def _next(self) -> _Place | None:
        if not self._places:
            return None
        place = min(self._places, key=lambda place: self._service.number(place.client))
        if not (place.courteous and self._service.must_wait(place.client)):
            return place
        return next((place for place in self._places if not place.courteous), None)  # all others have as many


_Wait = tuple[_Line, bool, float]  # what `_Line.take` is called with


class _Place:
    """A place in a line. given: free once it has its turn."""

    __slots__ = ("client", "courteous", "given")

    def __init__(self, client: str, courteous: bool) -> None:
        self.client, self.courteous, self.given = client, courteous, threading.Lock()
        self.given.acquire()


class _Turn:
    """The turn of one request, used by its thread alone. waits: for it, one after the other."""

    def __init__(self, waits: tuple[_Wait, ...], client: str) -> None:
        self._waits, self._client = waits, client
        self._held: _Line | None = None

    def take(self) -> None:
        if self._held is None:
            taken = (line for line, courteous, patience in self._waits if line.take(self._client, courteous, patience))
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
