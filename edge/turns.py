"""Which requests are worked on at once: a few, since their threads share one interpreter lock.

A thread that wants the lock waits the switch interval for each one before it, and again after every system call. With
the threads of a hundred new requests at work, the engine, the poller and its refusals would hardly get on, and the
requests would not be done any sooner. So a thread that begins, or goes on after a wait, takes a turn, and leaves it
before it waits. Nobody waits for a turn for more than PATIENCE seconds, whatever holds the others up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

AT_ONCE = 2
PATIENCE = 0.5  # seconds


class Turns:
    """The turns of one process. at_once: how many there are; patience: seconds after which none is waited for."""

    def __init__(self, at_once: int = AT_ONCE, patience: float = PATIENCE) -> None:
        self._free, self._patience = threading.Semaphore(at_once), patience

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve a request in this context, with a turn of its own; `leave` and `take` are about that one."""
        turn = _Turn(self._free, self._patience)
        token = _turn.set(turn)
        turn.take()
        try:
            yield
        finally:
            turn.leave()
            _turn.reset(token)


class _Turn:
    """The turn of one request, used by its thread alone."""

    def __init__(self, free: threading.Semaphore, patience: float) -> None:
        self._free, self._patience = free, patience
        self._held = False

    def take(self) -> None:
        if not self._held:
            self._held = self._free.acquire(timeout=self._patience)

    def leave(self) -> None:
        if self._held:
            self._held = False
            self._free.release()


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
