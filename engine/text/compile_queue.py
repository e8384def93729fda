"""Which grammar is compiled next, or schema rewritten: the order is fair between clients, and few threads take from it.

The client with the fewest grammars at work comes first, and among equals the one whose turn was longest ago. One client
does not get all threads while another waits or might come, nor all places: a grammar may take seconds, and the next one
of another client a hundredth of that. And since what compiles takes a core from everything else, a client with many
jobs rests after each of them while others have some.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from engine.cores import CORES, Cores
from engine.errors import Overloaded, ValidationError
from engine.shares import within_share
from engine.text.grammar_limits import COMPILE_STACK, TOO_COMPLEX
from engine.text.grammar_trials import TOO_MANY
from engine.thread_start import start_threads
from engine.wanted import Wanted

THREADS = 2
MOST = 128
NICENESS = 10
MANY = 4  # jobs of a client, waiting and at work
REST = 9  # times as long as a job of such a client took
LINE_SECONDS = 2.0  # since the first of a line came, after which its client rests no more
LATELY = 1.0  # seconds, within which others have had a job
RETRY_AFTER = 1  # second

Outcome = TypeVar("Outcome")


class Compilation(Future[Outcome]):
    """What is compiled for a client, by `work`.

    came: when it was submitted, on the queue's clock; began: when a thread began with it, in seconds on the monotonic
    clock; None while it waits.
    """

    def __init__(self, client: str = "", work: Callable[[], Outcome] | None = None, came: float = 0.0) -> None:
        super().__init__()
        self.client, self.work, self.came = client, work, came
        self.began: float | None = None


class CompileQueue:
    """At most `most` jobs, at work in `threads` threads and waiting for one. Thread-safe.

    clock: seconds, monotonic; cores: where jobs wait for the models, which is none of their own time.
    """

    def __init__(
        self,
        threads: int = THREADS,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
        cores: Cores = CORES,
    ) -> None:
        self._cores = cores
        self._each, self._most, self._to_start, self._clock = max(1, threads - 1), most, threads, clock
        self._threads = ThreadPoolExecutor(threads, "grammar", initializer=_lower_priority)
        self._starting = threading.Lock()  # guards `_to_start`
        self._changed = threading.Condition()  # guards the fields below
        self._lines: OrderedDict[str, deque[Compilation[Any]]] = OrderedDict()  # whose turn was longest ago first
        self._at_work: Counter[str] = Counter()
        self._asked: dict[str, float] = {}  # when each client has last had a job
        self._rests: dict[str, float] = {}  # until when a client with many does
        self._closed = False

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
        future = Compilation(client, work, self._clock())
        with self._changed:
            if not self._has_room(client):
                raise Overloaded(TOO_MANY, RETRY_AFTER)
            self._lines.setdefault(client, deque()).append(future)
            now = future.came
            self._asked = {other: at for other, at in self._asked.items() if now - at < LATELY} | {client: now}
            self._changed.notify_all()
        future.add_done_callback(self._forget)
        try:
            with self._starting:
                if self._to_start:
                    usual = threading.stack_size(COMPILE_STACK)
                    try:
                        start_threads(self._threads, self._to_start)
                    finally:
                        threading.stack_size(usual)
                    self._to_start = 0
            self._threads.submit(self._work)
        except BaseException:  # there is no room for a thread
            future.cancel()
            raise
        return future

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            waiting = [future for line in self._lines.values() for future in line]
            self._closed = True
            self._changed.notify_all()
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
        began = self._clock() - self._cores.waited
        try:
            outcome = work()
        except BaseException as error:
            self._end(future, self._clock() - self._cores.waited - began)
            future.set_exception(error)
        else:
            self._end(future, self._clock() - self._cores.waited - began)
            future.set_result(outcome)
        finally:
            del future, work  # an error would keep them and itself by its traceback

    def _take(self) -> Compilation[Any] | None:
        """Return what may be begun now, once its client has rested; None if there is nothing."""
        with self._changed:
            while not self._closed:
                client = self._next_client()
                if client is None:
                    return None
                if seconds := self._rest_of(client):
                    self._changed.wait(seconds)
                    continue
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
        """Return whose turn it is, one who rests only if nobody else waits; with the lock held."""
        waiting = [client for client in self._lines if self._at_work[client] < self._each]
        return min(waiting, key=lambda client: (self._rest_of(client), self._at_work[client]), default=None)

    def _rest_of(self, client: str) -> float:
        """Return for how many seconds more a client rests, 0 if it need not; with the lock held."""
        until = self._rests.get(client)
        if until is None or self._held(client) < MANY:
            return 0.0
        others = [at + LATELY for other, at in self._asked.items() if other != client]
        if len(self._lines.keys() | self._at_work.keys() | {client}) > 1:
            others.append(math.inf)
        return max(0.0, min(until, max(others)) - self._clock()) if others else 0.0

    def _end(self, future: Compilation[Any], seconds: float) -> None:
        """Count what took so long no longer, and have its client rest, as long as its line still passes in time."""
        client = future.client
        with self._changed:
            now = self._clock()
            self._rests = {other: until for other, until in self._rests.items() if until > now}
            if self._held(client) >= MANY and (line := self._lines.get(client)):
                self._rests[client] = now + min(REST * seconds, (line[0].came + LINE_SECONDS - now) / len(line))
            self._at_work -= Counter([client])
            if client in self._lines:
                self._lines.move_to_end(client)
            self._changed.notify_all()

    def _held(self, client: str) -> int:
        """Return how many jobs a client has, waiting and at work; with the lock held."""
        return self._at_work[client] + len(self._lines.get(client, ()))

    def _forget(self, future: Future[Any]) -> None:
        """Remove what was cancelled while it waited; what is done waits no longer."""
        assert isinstance(future, Compilation)
        if not future.cancelled():
            return
        future.work = None
        with self._changed:
            line = self._lines.get(future.client)
            if line is not None and future in line:
                line.remove(future)
                if not line:
                    del self._lines[future.client]
                self._changed.notify_all()

    def _has_room(self, client: str) -> bool:
        """Return whether one more job of a client may wait; one without any may take the last place. With the lock
        held.
        """
        held = self._held(client)
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
