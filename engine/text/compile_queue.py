"""Which grammar is compiled next, or schema rewritten: the order is fair between clients, and few threads take from it.

The client with the fewest grammars at work comes first, and among equals the one whose turn was longest ago. One client
does not get all threads while another waits or might come, nor all places: a grammar may take seconds, and the next one
of another client a hundredth of that.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from engine.errors import Overloaded, ValidationError
from engine.shares import within_share
from engine.text.grammar_limits import TOO_COMPLEX
from engine.text.grammar_trials import TOO_MANY
from engine.thread_start import start_threads
from engine.wanted import Wanted

THREADS = 2
MOST = 128
NICENESS = 10
RETRY_AFTER = 1  # second

Outcome = TypeVar("Outcome")


class Compilation(Future[Outcome]):
    """What is compiled for a client, by `work`.

    began: when a thread began with it, in seconds on the monotonic clock; None while it waits.
    """

    def __init__(self, client: str = "", work: Callable[[], Outcome] | None = None) -> None:
        super().__init__()
        self.client, self.work = client, work
        self.began: float | None = None


class CompileQueue:
    """At most `most` jobs, at work in `threads` threads and waiting for one. Thread-safe."""

    def __init__(self, threads: int = THREADS, most: int = MOST) -> None:
        self._each, self._most, self._to_start = max(1, threads - 1), most, threads
        self._threads = ThreadPoolExecutor(threads, "grammar", initializer=_lower_priority)
        self._lock = threading.Lock()  # guards the two fields below
        self._lines: OrderedDict[str, deque[Compilation[Any]]] = OrderedDict()  # whose turn was longest ago first
        self._at_work: Counter[str] = Counter()

    def done(self, work: Callable[[], Outcome], wanted: Wanted, seconds: float) -> Outcome:
        """Have `work` done for whom it is wanted and return what it returns, while this thread waits.

        Raises as `wanted` and `work` do, ValidationError once it has taken `seconds`, and Overloaded if there is no
        place for it, or if it has not begun for as long: then others took the time.
        """
        future = self.submit(wanted.client, work)
        try:
            return _result(future, wanted, seconds)
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # an error would keep itself by its traceback

    def submit(self, client: str, work: Callable[[], Outcome]) -> Compilation[Outcome]:
        """Have `work` done for a client; cancelling what is returned gives its place back while it waits.

        Raises Overloaded where there is no place for this client.
        """
        future = Compilation(client, work)
        with self._lock:
            if not self._has_room(client):
                raise Overloaded(TOO_MANY, RETRY_AFTER)
            self._lines.setdefault(client, deque()).append(future)
        future.add_done_callback(self._forget)
        try:
            if self._to_start:
                start_threads(self._threads, self._to_start)
                self._to_start = 0
            self._threads.submit(self._work)
        except BaseException:  # there is no room for a thread
            future.cancel()
            raise
        return future

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting = [future for line in self._lines.values() for future in line]
        for future in waiting:
            future.cancel()

    def _work(self) -> None:
        """Do what waits, as long as there is something that may be begun."""
        while (future := self._take()) is not None:
            self._do(future)
            del future  # so that its outcome is not kept while this thread waits

    def _do(self, future: Compilation[Any]) -> None:
        assert future.work is not None
        work, future.work = future.work, None
        try:
            outcome = work()
        except BaseException as error:
            self._end(future)
            future.set_exception(error)
        else:
            self._end(future)
            future.set_result(outcome)
        finally:
            del future, work  # an error would keep them and itself by its traceback

    def _take(self) -> Compilation[Any] | None:
        with self._lock:
            while (client := self._next_client()) is not None:
                line = self._lines[client]
                future = line.popleft()
                self._lines.move_to_end(client)
                if not line:
                    del self._lines[client]
                if future.set_running_or_notify_cancel():
                    future.began = time.monotonic()
                    self._at_work[client] += 1
                    return future
        return None

    def _next_client(self) -> str | None:
        """Return whose turn it is; with the lock held."""
        client = min(self._lines, key=self._at_work.__getitem__, default=None)
        return client if client is not None and self._at_work[client] < self._each else None

    def _end(self, future: Compilation[Any]) -> None:
        with self._lock:
            self._at_work -= Counter([future.client])
            if future.client in self._lines:
                self._lines.move_to_end(future.client)

    def _forget(self, future: Future[Any]) -> None:
        """Remove what was cancelled while it waited; what is done waits no longer."""
        assert isinstance(future, Compilation)
        if not future.cancelled():
            return
        future.work = None
        with self._lock:
            line = self._lines.get(future.client)
            if line is not None and future in line:
                line.remove(future)
                if not line:
                    del self._lines[future.client]

    def _has_room(self, client: str) -> bool:
        """Return whether one more job of a client may wait; one without any may take the last place. With the lock
        held.
        """
        held = self._at_work[client] + len(self._lines.get(client, ()))
        free = self._most - self._at_work.total() - sum(map(len, self._lines.values()))
        return within_share(held, 1, free) if held else free > 0


def _result(future: Compilation[Outcome], wanted: Wanted, seconds: float) -> Outcome:
    """Wait for a compilation. Raises as `CompileQueue.done` does."""
    future.add_done_callback(lambda _: wanted.changed.set())
    submitted = time.monotonic()
    try:
        while not future.done():
            began = future.began
            left = (submitted if began is None else began) + seconds - time.monotonic()
            if left <= 0 and began is None:
                raise Overloaded(TOO_MANY, RETRY_AFTER)
            if left <= 0:
                raise ValidationError(TOO_COMPLEX)
            wanted.wait(left)
        return future.result()
    finally:
        del future  # an error would keep itself by its traceback


def _lower_priority() -> None:
    """Lower the priority of this thread, so that the engine's thread runs first on a shared core."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
