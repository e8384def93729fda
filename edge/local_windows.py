"""Moving windows in this process's memory, counted as the `limits` library counts them in Redis.

They do without the library, whose calls would be a fifth of what a refusal costs. Its own memory storage starts a
thread for nearly every call and never removes a client's key; this one starts none, removes a client with its last
entry, and takes its clock as an argument.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from limits import RateLimitItem

SWEEP_SECONDS = 60.0
# Together at most about 100 MB. Beyond that the clients that were charged longest ago begin anew.
MAX_WINDOWS, MAX_HITS = 50_000, 500_000


@dataclass(slots=True)
class _Window:
    """The hits of one client in one window, oldest first: (when, how many)."""

    expiry: float
    hits: deque[tuple[float, int]] = field(default_factory=deque)
    count: int = 0

    def forget_before(self, moment: float) -> None:
        while self.hits and self.hits[0][0] <= moment:
            self.count -= self.hits.popleft()[1]


class LocalWindows:
    """The windows of all clients and budgets. Safe to use from any thread. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        self._windows: dict[str, _Window] = {}  # the one charged longest ago first
        self._hits = 0  # of all windows, an upper limit between two sweeps
        self._swept = clock()

    def __len__(self) -> int:
        return len(self._windows)

    def used(self, item: RateLimitItem, budget: str, client: str) -> tuple[float, int]:
        """Return the seconds until the oldest entry leaves the window, and how many requests are counted in it."""
        seconds = item.get_expiry()
        with self._lock:
            now = self._clock()
            window = self._windows.get(_key(budget, client, seconds))
            if window is None:
                return seconds, 0
            window.forget_before(now - seconds)
            return (seconds - (now - window.hits[0][0]) if window.hits else seconds), window.count

    def take(self, item: RateLimitItem, budget: str, client: str, cost: int) -> bool:
        """Count `cost` requests if the window has room for all of them."""
        seconds = item.get_expiry()
        with self._lock:
            now = self._clock()
            self._sweep(now)
            key = _key(budget, client, seconds)
            window = self._windows.pop(key, None) or _Window(seconds)
            self._windows[key] = window
            window.forget_before(now - seconds)
            if window.count + cost > item.amount:
                return False
            window.hits.append((now, cost))
            window.count += cost
            self._hits += 1
            self._bound()
            return True

    def _bound(self) -> None:
        """Forget the windows charged longest ago while there are too many, or too many hits; never the last one."""
        while len(self._windows) > 1 and (len(self._windows) > MAX_WINDOWS or self._hits > MAX_HITS):
            self._hits -= len(self._windows.pop(next(iter(self._windows))).hits)

    def _sweep(self, now: float) -> None:
        """Remove the clients whose windows are empty; rarely, since it visits all of them."""
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for key, window in list(self._windows.items()):
            window.forget_before(now - window.expiry)
            if not window.hits:
                del self._windows[key]
        self._hits = sum(len(window.hits) for window in self._windows.values())


def _key(budget: str, client: str, seconds: int) -> str:
    return f"{budget}/{client}/{seconds}"
