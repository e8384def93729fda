"""A text that many ask for, made at most once in some seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SharedText:
    """What `make` returns, at most `seconds` old. One thread makes it; those that ask meanwhile wait for it."""

    def __init__(self, make: Callable[[], bytes], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._seconds, self._clock = make, seconds, clock
        self._lock = threading.Lock()  # guards the fields below
        self._text = b""
        self._until = -1.0

    def get(self) -> bytes:
        """Return the text. Raises what `make` raises, to each who asks then."""
        with self._lock:
            if self._clock() >= self._until:
                self._text = self._make()
                self._until = self._clock() + self._seconds
            return self._text
