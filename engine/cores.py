"""Who computes on the processor's cores: models, and the processes that work for the service.

A step's products are split between threads that wait for each other some hundred times. Where one of them shares its
core with another process, all wait for the time slices of that process each time, and the kernel wakes and stops them
so often that it can leave everything else on the machine waiting for seconds. So each takes only what is left.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Cores:
    """Counts what computes now. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._jobs = self._models = 0

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
    def step(self, cores: int) -> Iterator[int]:
        """Count a model's step until the block ends, and return how many of so many cores it should take, at least 1:
        those without a job, shared between the models that compute now.
        """
        with self._lock:
            self._models += 1
            share = max(1, (cores - self._jobs) // self._models)
        try:
            yield share
        finally:
            with self._lock:
                self._models -= 1


CORES = Cores()  # of this process
