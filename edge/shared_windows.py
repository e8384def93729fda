"""The windows that copies of the service share, and whether their storage answers.

After a call that it did not answer, no request asks it again: a thread tries it every few seconds, with what a request
would do, until it answers. So an outage costs the calls that were under way a quarter of a second, and later ones
nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter

log = logging.getLogger("avito_ai.rate_limit")

# How long Redis is left alone after a failure, and how long one call may take, in seconds.
REDIS_PAUSE = 5.0
REDIS_TIMEOUT = 0.25
# What a storage raises that does not answer; who meets it calls `SharedWindows.failed`.
UNANSWERED = (StorageError, OSError)
TRY = RateLimitItemPerSecond(1_000_000)

Pause = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Windows:
    """A storage with the clock that it stamps its entries with."""

    storage: Storage
    clock: Callable[[], float]


class SharedWindows:
    """Windows in a storage that can be away. pause: waits so many seconds before a try; True from it ends the tries."""

    def __init__(self, windows: Windows, pause: Pause | None = None) -> None:
        self.windows = windows
        self._pause = pause or threading.Event().wait
        self._lock = threading.Lock()  # guards the two fields below
        self._away = False
        self._failures = 0

    @property
    def away(self) -> bool:
        """True while the storage is not to be asked."""
        return self._away

    @property
    def failures(self) -> int:
        """How many calls and tries it has not answered; never goes back."""
        return self._failures

    def failed(self, error: Exception) -> None:
        """Leave the storage alone from now on, until it answers again."""
        with self._lock:
            self._failures += 1
            first, self._away = not self._away, True
        if first:
            log.warning("RATE_LIMIT_STORAGE is away (%s): limits are counted in this process alone.", _kind_of(error))
            threading.Thread(target=self._wait_for_an_answer, name="limits-storage", daemon=True).start()

    def _wait_for_an_answer(self) -> None:
        while not self._pause(REDIS_PAUSE):
            if self._answers():
                log.info("RATE_LIMIT_STORAGE is back: limits are shared again.")
                with self._lock:
                    self._away = False
                return

    def _answers(self) -> bool:
        """Try what a request would do, so that a Redis that is full or only to be read does not count as back."""
        try:
            return MovingWindowRateLimiter(self.windows.storage).hit(TRY, "try")
        except UNANSWERED:
            with self._lock:
                self._failures += 1
            return False


def redis_windows(url: str) -> Windows:
    """Return windows in Redis; connects on first use, and gives up soon."""
    # Imported only by those who use it: it takes a fifth of a second, most of it for OpenTelemetry's metrics.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: Mapping[str, object] = {
        "socket_timeout": REDIS_TIMEOUT,
        "socket_connect_timeout": REDIS_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    storage = RedisStorage(url, wrap_exceptions=True, key_prefix="avito_ai", **options)  # type: ignore[arg-type]
    return Windows(storage, time.time)


def _kind_of(error: Exception) -> str:
    """Name the failure without its text, which may hold the URL and its password."""
    return type(error.__cause__ or error).__name__
