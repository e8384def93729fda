"""All threads of a pool at once: one that begins later might find no room for another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

SECONDS = 30.0  # that the first of them waits for the last


def start_threads(pool: ThreadPoolExecutor, many: int) -> None:
    """Have `many` threads of a pool started, which has that many. Raises RuntimeError where one cannot be."""
    started = threading.Barrier(many)
    try:
        for _ in range(many):
            pool.submit(started.wait, SECONDS)
    except BaseException:
        started.abort()  # the pool keeps what it has no thread for: the next thread would wait for others in it
        raise
