"""Lets a successor load its models while the service that it will replace goes first on every core.

Its imports and its warm-up keep cores busy for seconds; without this, each probe and each step of the serving process
would wait for the end of their time slices. Threads and processes inherit their nice value (sched(7)), and may lower it
again only where RLIMIT_NICE allows that, which the unit of systemd does. Each of the two computes its models on fewer
cores meanwhile, so that none of their threads wait for one that shares its core.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from engine.cores import CORES, Cores
from engine.quick_calls import read_now

# Added to its usual value: on busy cores a third of what a thread of the serving process gets, so that the load ends.
NICENESS = 5


@contextmanager
def yielding() -> Iterator[None]:
    """Have this thread, and all that is started meanwhile, run behind others; afterwards as before.

    Nothing changes where that could not be undone, but that models are computed on fewer cores.
    """
    with CORES.job():  # the other process
        yield from _behind_others()


class Successors:
    """Counts another child of this process's parent, which loads models, as a job on the cores."""

    def __init__(self, cores: Cores = CORES) -> None:
        self._cores = cores
        self._counted = contextlib.ExitStack()
        self._there = False

    def look(self, parent: int) -> None:
        """Look whether there is one now: the new master after SIGUSR2, or a new worker."""
        there = _has_other_child(parent)
        if there and not self._there:
            self._counted.enter_context(self._cores.job())
        elif self._there and not there:
            self._counted.close()
        self._there = there


def _has_other_child(parent: int) -> bool:
    """Return whether a process has another child than this one; cheap enough for four times a second.

    The list may lack one while others end (proc(5)), so a drain asks `worker.has_sibling`, which looks at all
    processes.
    """
    try:
        children = read_now(f"/proc/{parent}/task/{parent}/children").split()
    except OSError:  # the parent has ended, or this kernel has no such list
        return False
    return any(int(child) != os.getpid() for child in children)


def _behind_others() -> Iterator[None]:
    if not _can_return():
        yield
        return
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, usual + NICENESS)
    try:
        yield
    finally:
        for thread in _threads():
            with contextlib.suppress(OSError):  # it has ended
                nice = os.getpriority(os.PRIO_PROCESS, thread)
                if nice >= usual + NICENESS:
                    os.setpriority(os.PRIO_PROCESS, thread, nice - NICENESS)


def _can_return() -> bool:
    """Return whether a thread whose nice value has been raised may lower it again: one tries, and ends."""
    outcome: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(OSError):
            os.nice(1)
            os.nice(-1)
            outcome.append(True)

    if sys.platform == "linux":  # elsewhere a thread has no nice value of its own
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    return bool(outcome)


def _threads() -> Iterator[int]:
    """Yield the threads of this process and of those that it has started."""
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(OSError):
            yield from (int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir())
