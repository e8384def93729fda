"""Which requests are worked on at once: a few, since their threads share one interpreter lock.

A thread that wants the lock waits the switch interval for each one before it, and again after every system call. With
the threads of a hundred new requests at work, the engine, the poller and its refusals would hardly get on, and the
requests would not be done any sooner. So a request is given a thread with its turn, which leaves the turn before it
waits, and takes one again before it goes on.

A turn goes to the client with the fewest requests in service, so that the hundred of one are not in front of the one of
another. Whether a request is better not begun yet, `in_service` tells.

Who has waited for PATIENCE seconds goes on beside those that have a turn, a few at once as well; and no thread waits
for longer than LONGEST seconds more, whatever holds the others up. A request that has no thread yet is not begun
without a turn: ninety that each take a third of a second would hold up everybody. It is given up once it has waited for
too long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from edge.in_service import PATIENT, InService

AT_ONCE = 2  # on more than one core
PATIENCE = 0.5  # seconds
LATE_AT_ONCE = 2
LONGEST = 5.0
# Who is late is looked after by the polling thread: some at a time, and no more of them after so many seconds.
AT_A_TIME, HASTEN_SECONDS = 2, 0.005
LAST_PART = 0.02  # seconds that the last part of a stream waits for a turn: its client sees a pause
BEGIN_WITHIN = 30.0  # seconds, unless told otherwise


class Turns:
    """The turns of one process. at_once: how many there are; patience: seconds after which none is waited for.

    late: how many go on without one; longest: seconds after which no thread waits for that; begin_within: seconds after
    which a request without a thread is given up. shares_cores: whether a model computes on this process's cores, asked
    with a lock held. patient: seconds for which who had many waits for the others' sake. on_free: called, with no lock
    held, when a turn is given back that nobody waits for; it may not wait.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        patience: float = PATIENCE,
        late: int = LATE_AT_ONCE,
        longest: float = LONGEST,
        shares_cores: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        patient: float = PATIENT,
        begin_within: float = BEGIN_WITHIN,
        on_free: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = InService(at_once, shares_cores, clock, patient)
        first = _Line(at_once, patience, self._service, clock, on_free)
        second = _Line(late, longest, self._service, clock)
        self._lines, self._patience = (first, second), (patience, max(0.0, begin_within - patience))

    def begin(
        self, client: str, start: Callable[[Turn], None], light: bool = False, give_up: Callable[[], None] | None = None
    ) -> None:
        """Count a request, and have `start` called once it has its turn: no thread waits for that.

        It is called here, by the thread that gives a turn back, or by `hasten`, which calls `give_up` instead for one
        that has waited for too long: it is counted no longer. Neither may wait or raise. light: the request asks for no
        answer of a model, so it counts while it is in service alone.
        """
        self._service.enter(client, light)
        turn = Turn(self._lines, client, light)

        def left() -> None:
            self._service.leave(client, light)
            if give_up is not None:
                give_up()

        turn.take_later(start, left, self._patience)

    def number(self, client: str, light: bool) -> int:
        """Return how many requests of a client are in service or wait for a turn, of those that are light or not."""
        with self._service.lock:
            return self._service.number_of(client, light)

    @property
    def free(self) -> bool:
        """Whether a request that begins now has its turn at once, without going on beside those that have one."""
        return self._lines[0].free > 0

    def hasten(self) -> bool:
        """Let those go on that have waited long enough to begin; to be called from time to time.

        Return whether there are more of them, for which it is to be called again soon.
        """
        first, second = self._lines
        until, more = time.monotonic() + HASTEN_SECONDS, False
        for line in self._lines:
            while not more and (late := line.overdue()):
                for waiter in late:
                    waiter.gone_by()
                more = time.monotonic() >= until
        while first.lend(second):
            pass
        return more

    @contextmanager
    def serving(self, turn: Turn) -> Iterator[None]:
        """Serve a request that has begun with this turn, in this context, for `leave` and `take`."""
        token = _turn.set(turn)
        try:
            turn.take()
            yield
        finally:
            self._service.leave(turn.client, turn.light)
            turn.leave()
            _turn.reset(token)

    def courtesy(self, client: str, light: bool = False) -> float:
        """Return how many seconds one more request of a client is to wait at most, for the others would notice it.

        0.0 where they would not. To be asked again whenever a request has ended.
        """
        with self._service.lock:
            return self._service.courtesy(client, light)


@dataclass(slots=True, eq=False)
class _Waiter:
    """Who waits in a line. given: called, with no lock held, when its turn comes.

    until: when `gone_by` is to be called instead; None for a thread, which waits by itself.
    """

    client: str
    given: Callable[[], None]
    until: float | None = None
    gone_by: Callable[[], None] = lambda: None


class _Line:
    """So many turns, and those who wait for one, at most `patience` seconds."""

    def __init__(
        self,
        turns: int,
        patience: float,
        service: InService,
        clock: Callable[[], float],
        on_free: Callable[[], None] = lambda: None,
    ) -> None:
        self.free, self._on_free = turns, on_free
        self.borrowed: list[_Line] = []  # whose turns some of those that are not free are
        self._patience, self._service, self._clock = patience, service, clock
        self._waiters: list[_Waiter] = []

    def take(self, client: str, at_most: float) -> bool:
        """Wait for a turn, no longer than so many seconds; return whether there was one in time."""
        given = threading.Lock()
        with self._service.lock:
            if self._take():
                return True
            given.acquire()
            waiter = _Waiter(client, given.release)
            self._waiters.append(waiter)
        if given.acquire(timeout=min(self._patience, at_most)):
            return True
        with self._service.lock:
            if waiter not in self._waiters:
                return True  # it was given at the last moment
            self._waiters.remove(waiter)
            return False

    def take_later(self, client: str, given: Callable[[], None], gone_by: Callable[[], None], patience: float) -> None:
        """Have `given` called with a turn, now or later, or `gone_by` once that has taken so many seconds."""
        with self._service.lock:
            free = self._take()
            if not free:
                self._waiters.append(_Waiter(client, given, self._clock() + patience, gone_by))
        if free:
            given()

    def overdue(self) -> list[_Waiter]:
        """Remove and return some of those who have waited too long."""
        with self._service.lock:
            if not self._waiters:
                return []
            now = self._clock()
            late = [waiter for waiter in self._waiters if waiter.until is not None and now >= waiter.until]
            del late[AT_A_TIME:]
            if late:
                gone = set(map(id, late))
                self._waiters = [waiter for waiter in self._waiters if id(waiter) not in gone]
        return late

    def lend(self, other: _Line) -> bool:
        """Give a turn that is free here to one who waits in another line; return whether there were both.

        It is a turn of that line until it is given back there, and of this one again once nobody waits in that one.
        """
        with self._service.lock:
            if not self.free or not other._waiters:
                return False
            self.free -= 1
            waiter = other._next()
            other._waiters.remove(waiter)
            other.borrowed.append(self)
        waiter.given()
        return True

    def give_back(self) -> None:
        """Give the turn to the client with the fewest requests, the longest waiting one among equals."""
        with self._service.lock:
            waiter = self._next() if self._waiters else None
            if waiter is None:
                owner = self.borrowed.pop() if self.borrowed else self
                owner.free += 1
            else:
                self._waiters.remove(waiter)
        (owner._on_free if waiter is None else waiter.given)()

    def _next(self) -> _Waiter:
        """Return the waiter whose turn it is; hundreds of clients with a request each are not all looked at."""
        found, fewest = self._waiters[0], self._service.number(self._waiters[0].client)
        for waiter in self._waiters:
            if fewest <= 1:  # the request that waits is its client's only one
                break
            if (number := self._service.number(waiter.client)) < fewest:
                found, fewest = waiter, number
        return found

    def _take(self) -> bool:
        if not self.free:
            return False
        self.free -= 1
        return True


class Turn:
    """The turn of one request of a client; used by its thread alone, once it has one."""

    def __init__(self, lines: tuple[_Line, ...], client: str, light: bool = False) -> None:
        self.client, self.light = client, light
        self._lines = lines
        self._held: _Line | None = None

    @property
    def held(self) -> bool:
        """Whether the request has its turn now."""
        return self._held is not None

    def take_later(
        self, start: Callable[[Turn], None], give_up: Callable[[], None], patience: tuple[float, ...]
    ) -> None:
        """Have `start` called with this turn once it is taken, or `give_up` after so many seconds in each line."""
        self._wait_in([*zip(self._lines, patience, strict=True)], start, give_up)

    def take(self, at_most: float = LONGEST) -> None:
        """Wait for the turn, unless it is held; in each line no longer than that."""
        if self._held is None:
            self._held = next((line for line in self._lines if line.take(self.client, at_most)), None)

    def leave(self) -> None:
        """Give the turn to another request, unless that was done."""
        held, self._held = self._held, None
        if held is not None:
            held.give_back()

    def yielded(self) -> Callable[[], None]:
        """Hold the turn no longer, before a thread has the request; return what gives it to another one."""
        held, self._held = self._held, None
        return held.give_back if held is not None else lambda: None

    def _wait_in(
        self, lines: list[tuple[_Line, float]], start: Callable[[Turn], None], give_up: Callable[[], None]
    ) -> None:
        if not lines:
            give_up()
            return
        (line, patience), *others = lines

        def given() -> None:
            self._held = line
            start(self)

        line.take_later(self.client, given, lambda: self._wait_in(others, start, give_up), patience)


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def leave() -> None:
    """Leave this request's turn, if it has one: its thread is about to wait."""
    turn = _turn.get()
    if turn is not None:
        turn.leave()


def take(at_most: float = LONGEST) -> None:
    """Wait for this request's turn, if it needs one: its thread goes on. at_most: seconds in each of the lines."""
    turn = _turn.get()
    if turn is not None:
        turn.take(at_most)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Leave this request's turn while a process, a server or another request is waited for, and take it again.

    No lock may be held that others want. A request that has no turn at the time takes none.
    """
    turn = _turn.get()
    if turn is None or not turn.held:
        yield
        return
    turn.leave()
    try:
        yield
    finally:
        turn.take()
