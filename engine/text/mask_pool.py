"""The threads that compute masks: those of answers that have taken the least time come first, and slow ones in turn.

A mask of most grammars takes less than a millisecond, and the engine's step waits for it. One of an ambiguous grammar
takes longer with every token. Such a row sits steps out until its mask is there (`GrammarMask.ready`), and few of such
masks are computed at once, so that they take neither all cores nor all threads. Rows whose masks and tokens lengthen a
step take turns (`engine.schedule.scheduler`).
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Generic, TypeVar

from engine.cores import CORES, Cores

THREADS = 4
LOOK_SECONDS = 0.01  # between two looks at jobs whose locks are held
SLOW_AT_ONCE = max(1, min(THREADS - 1, (os.cpu_count() or 1) // 4))

Mask = TypeVar("Mask")
_Job = tuple[float, int, "Future[Mask]", Callable[[], Mask], threading.Lock]


class MaskPool(Generic[Mask]):
    """Computes in `threads` threads, which start with the first job. Thread-safe.

    slow: how many slow jobs there are at once; cores: where each of them is counted.
    """

    def __init__(self, threads: int = THREADS, slow: int = SLOW_AT_ONCE, cores: Cores = CORES) -> None:
        self._threads, self._cores = threads, cores
        self._numbers = itertools.count()
        self._changed = threading.Condition()  # guards the fields below
        self._quick: list[_Job[Mask]] = []  # heaps
        self._slow: list[_Job[Mask]] = []
        self._started = self._closed = False
        self._slow_left = slow

    def submit(self, work: Callable[[], Mask], spent: float, slow: bool, lock: threading.Lock) -> Future[Mask]:
        """Have a mask computed. spent: seconds that the answer's masks took; slow: whether the last one took long.

        lock: held meanwhile; no thread waits for it.
        """
        future: Future[Mask] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            heapq.heappush(self._slow if slow else self._quick, (spent, next(self._numbers), future, work, lock))
            if not self._started:
                self._started = True
                for _ in range(self._threads):
                    threading.Thread(target=self._run, name="grammar-mask", daemon=True).start()
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        with self._changed:
            self._closed = True
            waiting, self._quick, self._slow = [*self._quick, *self._slow], [], []
            self._changed.notify_all()
        for job in waiting:
            job[2].cancel()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            (_, _, future, work, lock), slow = taken
            # It does not wait for a step: that may wait for the lock.
            with self._cores.job(wait=False) if slow else nullcontext():
                _compute(future, work, lock)
            with self._changed:
                self._slow_left += slow
                self._changed.notify()
            del taken, future, work, lock  # so that nothing is kept while this thread waits

    def _take(self) -> tuple[_Job[Mask], bool] | None:
        """Wait for a job and return it, its lock held, with whether it is a slow one; None once the pool is closed."""
        with self._changed:
            while not self._closed:
                if (job := _first(self._quick)) is not None:
                    return job, False
                if self._slow_left and (job := _first(self._slow)) is not None:
                    self._slow_left -= 1
                    return job, True
                # Somebody else may hold a lock, who tells nobody of its release.
                self._changed.wait(LOOK_SECONDS if self._quick or (self._slow and self._slow_left) else None)
        return None


def _first(jobs: list[_Job[Mask]]) -> _Job[Mask] | None:
    """Take the first job whose lock is free out of a heap, and its lock; None if there is none."""
    held, found = [], None
    while jobs and found is None:
        job = heapq.heappop(jobs)
        if job[-1].acquire(blocking=False):
            found = job
        else:
            held.append(job)
    for job in held:
        heapq.heappush(jobs, job)
    return found


def _compute(future: Future[Mask], work: Callable[[], Mask], lock: threading.Lock) -> None:
    """Do a job, and release its lock before anybody hears of its end."""
    if not future.set_running_or_notify_cancel():
        lock.release()
        return
    try:
        result = work()
    except BaseException as error:
        lock.release()
        future.set_exception(error)
    else:
        lock.release()
        future.set_result(result)
    finally:
        del future, work  # an error would keep them and itself by its traceback
