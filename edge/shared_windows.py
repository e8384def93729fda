"""The windows that copies of the service share in Redis, and whether Redis is available.

After a failed call no request uses the storage: a thread retries the operation of a request every few seconds until it
succeeds. So an outage delays the calls in progress by a quarter of a second, and later ones not at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter

log = logging.getLogger("avito_ai.rate_limit")

# Between two attempts after a failure, and at most for one call, in seconds.
REDIS_PAUSE = 5.0
REDIS_TIMEOUT = 0.25
TRY = RateLimitItemPerSecond(1_000_000)

Pause = Callable[[float], bool]


@dataclass(frozen=True)
class StoredWindows:
    """A storage of the library with the clock of its entries' timestamps; its methods raise what the storage raises."""

    storage: Storage
    clock: Callable[[], float]

    @cached_property
    def _strategy(self) -> MovingWindowRateLimiter:
        return MovingWindowRateLimiter(self.storage)

    def used(self, item: RateLimitItem, budget: str, client: str) -> tuple[float, int]:
        """Return the seconds until the oldest entry leaves the window, and how many requests are counted in it."""
        reset, remaining = self._strategy.get_window_stats(item, budget, client)
        return reset - self.clock(), item.amount - remaining

    def take(self, item: RateLimitItem, budget: str, client: str, cost: int) -> bool:
        """Count `cost` requests if the window has room for all of them."""
        return self._strategy.hit(item, budget, client, cost=cost)


class SharedWindows:
    """Windows in a storage that can be unavailable. pause: waits so many seconds; if it returns True, retrying ends."""

    def __init__(self, windows: StoredWindows, pause: Pause | None = None) -> None:
        self.windows = windows
        self._pause = pause or threading.Event().wait
        self._lock = threading.Lock()  # guards the two fields below
        self._unavailable = False
        self._failures = 0
        self._returned: list[Callable[[], None]] = []

    def use(self, windows: StoredWindows) -> None:
        """Count in another storage from now on, or in the same one with another password."""
        self.windows = windows

    def on_return(self, call: Callable[[], None]) -> None:
        """Have `call` called, by a thread, whenever the storage can be used again."""
        self._returned.append(call)

    @property
    def unavailable(self) -> bool:
        """True while requests must not use the storage."""
        return self._unavailable

    @property
    def failures(self) -> int:
        """How many calls and retries have failed since the start."""
        return self._failures

    def begin(self) -> None:
        """Try the storage in the background, so that a wrong setting is reported at the start."""
        threading.Thread(target=self._try_first, name="limits-storage-first", daemon=True).start()

    def _try_first(self) -> None:
        try:
            self._hit()
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Keep requests away from the storage until a retry succeeds."""
        with self._lock:
            self._failures += 1
            first, self._unavailable = not self._unavailable, True
        if first:
            log.warning("RATE_LIMIT_STORAGE is unavailable (%s): this process counts on its own.", _kind_of(error))
            self._retry_in_background()

    def _retry_in_background(self) -> None:
        try:
            threading.Thread(target=self._retry, name="limits-storage", daemon=True).start()
        except RuntimeError:  # no room for a thread: the next request tries the storage itself
            with self._lock:
                self._unavailable = False

    def _retry(self) -> None:
        while not self._pause(REDIS_PAUSE):
            if self._try():
                log.info("RATE_LIMIT_STORAGE is available again: limits are shared.")
                with self._lock:
                    self._unavailable = False
                for call in self._returned:
                    call()
                return

    def _try(self) -> bool:
        """Run the operation of a request, so that a Redis that is full or read-only does not count as available."""
        try:
            return self._hit()
        except Exception:
            with self._lock:
                self._failures += 1
            return False

    def _hit(self) -> bool:
        return MovingWindowRateLimiter(self.windows.storage).hit(TRY, "try")


def redis_windows(url: str) -> StoredWindows:
    """Return windows in Redis; it connects on first use, with short time-outs."""
    # Imported only if used: it takes a fifth of a second, most of it for OpenTelemetry's metrics.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: Mapping[str, object] = {
        "socket_timeout": REDIS_TIMEOUT,
        "socket_connect_timeout": REDIS_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    storage = RedisStorage(url, wrap_exceptions=True, key_prefix="avito_ai", **options)  # type: ignore[arg-type]
    return StoredWindows(storage, time.time)


def _kind_of(error: Exception) -> str:
    """Return the name of the error without its text, which may contain the URL and its password."""
    return type(error.__cause__ or error).__name__
