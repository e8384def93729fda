"""Jobs in threads of their own, in an order in which no client's jobs keep another client's waiting."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from engine.errors import Overloaded

MOST_WAITING = 64  # jobs of one client
CROWDED = "Too many schemas are being checked; try again later."

Job = tuple[Callable[[], str], Future[str]]


class FairExecutor:
    """At most `threads` jobs at a time, one fewer of each client; clients take turns. Safe to use from any thread."""

    def __init__(self, threads: int, name: str) -> None:
        self._most, self._each = threads, max(1, threads - 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()  # guards the fields below
        self._lines: OrderedDict[str, deque[Job]] = OrderedDict()  # whose turn is next comes first
        self._running: Counter[str] = Counter()  # jobs by client

    def submit(self, client: str, work: Callable[[], str]) -> Future[str]:
        """Return what `work` will return; a job that is cancelled before its turn is not done. Raises Overloaded."""
        future: Future[str] = Future()
        with self._lock:
            line = deque(job for job in self._lines.get(client, ()) if not job[1].cancelled())
            if len(line) >= MOST_WAITING:
                raise Overloaded(CROWDED, 1)
            line.append((work, future))
            self._lines[client] = line
            self._begin()
        return future

    def _begin(self) -> None:
        """Start what may be started; the lock is held."""
        while self._running.total() < self._most:
            client = next((one for one in self._lines if self._running[one] < self._each), None)
            if client is None:
                return
            self._begin_one(client)

    def _begin_one(self, client: str) -> None:
        line = self._lines[client]
        self._lines.move_to_end(client)
        while line:
            work, future = line.popleft()
            if future.set_running_or_notify_cancel():
                self._running[client] += 1
                self._threads.submit(self._do, client, work, future)
                break
        if not line:
            del self._lines[client]

    def _do(self, client: str, work: Callable[[], str], future: Future[str]) -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        finally:
            del work, future  # an error would keep them and itself by its traceback
            with self._lock:
                self._running[client] -= 1
                self._running += Counter()  # without those that are 0
                self._begin()
