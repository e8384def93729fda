"""Whether the work that is done for a request before it is queued is still wanted: decoding, tokenizing, compiling."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import OUT_OF_TIME, STOPPED, DeadlineExceeded, RequestAborted


@dataclass(slots=True, eq=False)
class Wanted:
    """One piece of work for one request. It belongs to the thread that does it; `cancel` may come from any other.

    deadline: on `clock`, in seconds; client: the key or address whose share the work counts against; changed: set when
    there is something new to look at.
    """

    deadline: float = math.inf
    client: str = ""
    clock: Callable[[], float] = time.monotonic
    cancelled: bool = False
    changed: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Want it no longer."""
        self.cancelled = True
        self.changed.set()

    def check(self) -> None:
        """Raise RequestAborted or DeadlineExceeded where it is not wanted any more."""
        if self.cancelled:
            raise RequestAborted(STOPPED)
        if self.clock() >= self.deadline:
            raise DeadlineExceeded(OUT_OF_TIME)

    def wait(self, seconds: float = math.inf) -> None:
        """Wait for `changed`, at most `seconds`. Raises as `check` does."""
        self.check()
        self.changed.wait(min(max(0.0, self.deadline - self.clock()), seconds, threading.TIMEOUT_MAX))
        self.changed.clear()
        self.check()
