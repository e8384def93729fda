"""A pool of threads in which a call goes to the thread that has become idle last.

A thread keeps what a request has once needed: pages of its stack, blocks of memory that the allocator holds for it
alone, connections of its own. The standard library's idle threads take turns, so that each of hundreds comes to hold
what the largest request has needed; here only as many do as requests are served at the same time.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor


class RecentFirstQueue:
    """Where threads wait for calls: the one that came last gets the next. It has what a pool uses of a queue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._calls: deque[object] = deque()
        self._waiting: list[threading.Lock] = []  # each is released to wake its thread

    @property
    def idle(self) -> bool:
        """True where a thread waits for a call."""
        return bool(self._waiting)

    def put(self, call: object) -> None:
        """Add a call, and wake a thread for it."""
        with self._lock:
            self._calls.append(call)
            bell = self._waiting.pop() if self._waiting else None
        if bell is not None:
            bell.release()

    def get(self, block: bool = True) -> object:
        """Return the oldest call; wait for one, or raise queue.Empty where `block` is False."""
        while True:
            with self._lock:
                if self._calls:  # else a thread that was not waiting has taken what this one was woken for
                    return self._calls.popleft()
                if not block:
                    raise queue.Empty
                bell = threading.Lock()
                bell.acquire()
                self._waiting.append(bell)
            bell.acquire()

    def get_nowait(self) -> object:
        """Return the oldest call. Raises queue.Empty."""
        return self.get(block=False)


class RecentFirstPool(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` with such a queue."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._calls = RecentFirstQueue()
        # Before the first call, which starts the first thread.
        self._work_queue = self._calls  # type: ignore[assignment]

    @property
    def idle(self) -> bool:
        """True where one of its threads has nothing to do."""
        return self._calls.idle
