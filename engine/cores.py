"""Who computes on the processor's cores: models, and the processes that work for the service.

A step's products are split between threads that wait for each other some hundred times. Where one of them shares its
core with another process, all wait for the time slices of that process each time, and the kernel wakes and stops them
so often that it can leave everything else on the machine waiting for seconds. So each takes only what is left.
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


class Cores:
    """Counts what computes now. Thread-safe. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._jobs = 0
        self._models: dict[Hashable, float] = {}  # until when each counts

    @contextmanager
    def job(self) -> Iterator[None]:
        """Count a job that keeps another process busy until the block ends."""
        with self._lock:
            self._jobs += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs -= 1

    @contextmanager
    def step(self, cores: int, model: Hashable) -> Iterator[int]:
        """Count a model's step until the block ends, and return how many of so many cores it should take, at least 1:
        those without a job, shared between the models that compute.
        """
        with self._lock:
            now = self._clock()
            self._models = {other: until for other, until in self._models.items() if until > now} | {model: math.inf}
            share = max(1, (cores - self._jobs) // len(self._models))
        try:
            yield share
        finally:
            with self._lock:
                self._models[model] = self._clock() + PAUSE


CORES = Cores()  # of this process
