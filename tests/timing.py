"""Promises about time and threads, held so that a busy machine cannot break them."""

from __future__ import annotations

import threading
from collections.abc import Callable

TRIES = 50
PATIENCE = 60.0  # seconds until a wait of a test counts as failed


def once_within(seconds: float, attempt: Callable[[int], float]) -> None:
    """Repeat an attempt until it takes less than `seconds` once; fail if it never does.

    attempt: gets the number of the try and returns how long it took. A busy machine delays some tries, not all; code
    that is too slow is slow each time.
    """
    took = []
    for number in range(TRIES):
        took.append(attempt(number))
        if took[-1] < seconds:
            return
    raise AssertionError(f"none of {TRIES} tries took less than {seconds} s; the best took {min(took):.3f} s")


class NewThreads:
    """The threads started since this was made and still alive; threads of earlier tests may end meanwhile."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def __len__(self) -> int:
        return len(set(threading.enumerate()) - self._before)
