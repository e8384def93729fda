"""A thread that observes how long others keep it from Python's global lock, on a machine however busy.

It sleeps for a moment, over and over. Once it is awake it needs the lock. The kernel tells how long it then ran and how
long it waited for a core (`schedstat`); the rest of the time it waited for the lock. What another thread computed
meanwhile bounds what that one computed while it held the lock. Needs Linux.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TICK = 0.005  # seconds
TOLD = 0.01  # seconds of waiting that are worth a line
THREADS_EVERY = 200  # ticks between two looks at which threads there are


@dataclass(frozen=True, slots=True)
class Wait:
    """One long wait, in seconds: for the lock (`waited`) and for a core (`queued`).

    held: what one other thread computed meanwhile at most, and its name; moment: its end, on the monotonic clock.
    """

    process: int
    moment: float
    waited: float
    queued: float
    held: float
    thread: str


class LockWatch(threading.Thread):
    """Writes each long wait as a line of JSON, as long as the process lives."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="lock-watch", daemon=True)
        self._path = path
        self._names: dict[int, str] = {}  # of the other threads, by the ids of their clocks

    def run(self) -> None:
        own = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        with self._path.open("a", encoding="utf-8", buffering=1) as told:
            while True:
                self._find_threads()
                for _ in range(THREADS_EVERY):
                    wait = self._look(own)
                    if wait.waited + wait.queued >= TOLD:
                        told.write(json.dumps(asdict(wait)) + "\n")

    def _look(self, own: Path) -> Wait:
        """Sleep for a moment; return what it took to go on."""
        before, (ran, queued), began = self._spent(), _times(own), time.monotonic()
        time.sleep(TICK)
        ended, (ran_now, queued_now) = time.monotonic(), _times(own)
        waited = max(0.0, ended - began - TICK - (ran_now - ran) - (queued_now - queued))
        spent = {clock: now - before.get(clock, now) for clock, now in self._spent().items()}
        clock = max(spent, key=spent.__getitem__)
        held = min(waited, spent[clock])
        return Wait(os.getpid(), ended, waited, queued_now - queued, held, self._names[clock])

    def _find_threads(self) -> None:
        others = (thread for thread in threading.enumerate() if thread is not self and thread.native_id)
        self._names = {clock_of(thread.native_id or 0): thread.name for thread in others}

    def _spent(self) -> dict[int, float]:
        """Return the processor seconds of every thread that may hold the lock, by its clock."""
        found = {}
        for clock in self._names:
            try:
                found[clock] = time.clock_gettime(clock)
            except OSError:  # it has ended
                continue
        return found


def clock_of(thread: int) -> int:
    """Return the id of the clock of a thread's processor time (`pthread_getcpuclockid`), given the thread's own."""
    return (~thread << 3) | 6


def read(path: Path) -> list[Wait]:
    """Return what was written, but for a line that is not whole yet."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [Wait(**json.loads(line)) for line in lines]


def _times(path: Path) -> tuple[float, float]:
    """Return for how many seconds a thread has run, and how many it has waited for a core."""
    ran, queued, _ = path.read_text().split()
    return int(ran) / 1e9, int(queued) / 1e9
