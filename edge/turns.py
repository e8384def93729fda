"""Which requests are worked on at once: a few, since their threads share one interpreter lock.

A thread that wants the lock waits the switch interval for each one before it, and again after every system call. With
the threads of a hundred new requests at work, the engine, the poller and its refusals would hardly get on, and the
requests would not be done any sooner. So a thread that begins, or goes on after a wait, takes a turn, and leaves it
before it waits. Who has waited for PATIENCE seconds goes on beside those that have one, a few at once as well; and
nobody waits for longer than LONGEST seconds more, whatever holds the others up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

AT_ONCE = 2
PATIENCE = 0.5  # seconds
LATE_AT_ONCE = 4
LONGEST = 5.0

Line = tuple[threading.Semaphore, float]


class Turns:
    """The turns of one process. at_once: how many there are; patience: seconds after which none is waited for.

    late: how many go on without one; longest: seconds after which nobody waits for that.
    """

    def __init__(
        self, at_once: int = AT_ONCE, patience: float = PATIENCE, late: int = LATE_AT_ONCE, longest: float = LONGEST
    ) -> None:
        self._lines = ((threading.Semaphore(at_once), patience), (threading.Semaphore(late), longest))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve a request in this context, with a turn of its own; `leave` and `take` are about that one."""
        turn = _Turn(self._lines)
        token = _turn.set(turn)
        turn.take()
        try:
            yield
        finally:
            turn.leave()
            _turn.reset(token)


class _Turn:
    """The turn of one request, used by its thread alone. lines: in which it waits, one after the other."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._held: threading.Semaphore | None = None

    def take(self) -> None:
        if self._held is None:
            self._held = next((free for free, patience in self._lines if free.acquire(timeout=patience)), None)

    def leave(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()


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
