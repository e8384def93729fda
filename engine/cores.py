"""Who computes on the processor's cores: models, and the processes that work for the service.

A step's products are split between threads that wait for each other some hundred times. Where one of them shares its
core with another process, all wait for the time slices of that process each time, and the kernel wakes and stops them
so often that it can leave everything else on the machine waiting for seconds. So each takes only what is left, and what
would take a core from a short step that has begun waits for its end: one of a millisecond takes ten otherwise.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

# How long a model counts after a step, in seconds. Two that are asked at once pause between their steps, and to end and
# start half of the threads costs tenths of a millisecond each time.
PAUSE = 0.1
BEGIN_SECONDS = 0.02  # for which a job waits: it hardly lengthens a step that takes longer


class Cores:
    """Counts what computes now. Thread-safe.

    clock: seconds, monotonic; patience: for how many seconds a job waits for steps at most; waiting: jobs that do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.patience, self.waiting = clock, BEGIN_SECONDS, 0
        self._own = threading.local()
        self._changed = threading.Condition()  # guards the fields below
        self._jobs = self._begun = 0
        self._models: dict[Hashable, float] = {}  # until when each counts
        self._wide: dict[Hashable, int] = {}  # by model the number of a step that takes several cores

    @contextmanager
    def job(self, wait: bool = True) -> Iterator[None]:
        """Count a job that keeps a core busy until the block ends.

        wait: for the end of the steps that have begun on several cores, up to `patience`.
        """
        with self._changed:
            self._jobs += 1
        try:
            if wait:
                self._wait_for_steps()
            yield
        finally:
            with self._changed:
                self._jobs -= 1

    @property
    def waited(self) -> float:
        """For how many seconds this thread has waited for steps."""
        return getattr(self._own, "waited", 0.0)

    @contextmanager
    def step(self, cores: int, model: Hashable) -> Iterator[int]:
        """Count a model's step until the block ends, and return how many of so many cores it should take, at least 1:
        those without a job, shared between the models that compute.
        """
        with self._changed:
            now = self._clock()
            self._models = {other: until for other, until in self._models.items() if until > now} | {model: math.inf}
            share = max(1, (cores - self._jobs) // len(self._models))
            if share > 1:
                self._begun += 1
                self._wide[model] = self._begun
        try:
            yield share
        finally:
            with self._changed:
                self._models[model] = self._clock() + PAUSE
                self._wide.pop(model, None)
                if self.waiting:
                    self._changed.notify_all()

    def _wait_for_steps(self) -> None:
        with self._changed:
            if not self._wide:
                return
            begun, since = self._begun, self._clock()
            self.waiting += 1
            try:
                self._changed.wait_for(lambda: all(number > begun for number in self._wide.values()), self.patience)
            finally:
                self.waiting -= 1
                self._own.waited = self.waited + self._clock() - since


CORES = Cores()  # of this process
