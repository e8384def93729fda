"""Moving windows in this process's memory, a storage for the `limits` library.

The library's own memory storage starts a thread for nearly every call and never removes a client's key; this one starts
none, removes a client with its last entry, and takes its clock as an argument.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from limits.storage import MovingWindowSupport, Storage

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


class LocalWindows(Storage, MovingWindowSupport):
    """Entries of moving windows by key. Times are in seconds on `clock`."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        self._windows: dict[str, _Window] = {}  # the one charged longest ago first
        self._hits = 0  # of all windows, an upper limit between two sweeps
        self._swept = clock()

    def __len__(self) -> int:
        return len(self._windows)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Add `amount` entries if the window has room for all of them."""
        with self._lock:
            now = self._clock()
            self._sweep(now)
            window = self._windows.pop(key, None) or _Window(expiry)
            self._windows[key] = window
            window.forget_before(now - expiry)
            if window.count + amount > limit:
                return False
            window.hits.append((now, amount))
            window.count += amount
            self._hits += 1
            self._bound()
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the oldest entry was made and how many there are; (now, 0) for none."""
        with self._lock:
            now = self._clock()
            window = self._windows.get(key)
            if window is None:
                return now, 0
            window.forget_before(now - expiry)
            return (window.hits[0][0] if window.hits else now), window.count

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

    # Required by the library's base class, beyond moving windows.

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return ValueError: this storage raises nothing of its own."""
        return ValueError

    def check(self) -> bool:
        """Return True: memory is always available."""
        return True

    def reset(self) -> int:
        """Remove all windows; return how many there were."""
        with self._lock:
            forgotten = len(self._windows)
            self._windows.clear()
            self._hits = 0
            return forgotten

    def clear(self, key: str) -> None:
        """Remove one window."""
        with self._lock:
            self._windows.pop(key, None)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Raise NotImplementedError: this storage has no fixed windows."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Raise NotImplementedError."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Raise NotImplementedError."""
        raise NotImplementedError
