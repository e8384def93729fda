"""Budgets: how many requests a client may make a minute and an hour, over moving windows.

Counted by the `limits` library, in memory or in Redis for several copies of the service. While Redis is away the
limits go on in this process alone: one log line says so, a metric counts it, and no request fails for it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter

from edge.local_windows import LocalWindows
from engine.errors import RateLimitExceeded, ValidationError

log = logging.getLogger("avito_ai.rate_limit")

# How long Redis is left alone after a failure, and how long one call may take, in seconds.
REDIS_PAUSE = 5.0
REDIS_TIMEOUT = 0.25


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a client stands in its tightest window; `reset` is in seconds from now."""

    limit: int
    remaining: int
    reset: int
    policy: str

    def headers(self) -> dict[str, str]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers (version 06)."""
        figures = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset, "Policy": self.policy}
        return {f"RateLimit-{name}": str(value) for name, value in figures.items()}


class OverBudget(RateLimitExceeded):
    """A refusal that knows where the client stands; `window` is `minute` or `hour`."""

    def __init__(self, item: RateLimitItem, standing: Standing) -> None:
        self.window = item.GRANULARITY.name
        self.standing = standing
        super().__init__(f"Rate limit exceeded: {item.amount} requests per {self.window}", standing.reset)


@dataclass(frozen=True, slots=True)
class Windows:
    """A storage with the clock that it stamps its entries with."""

    storage: Storage
    clock: Callable[[], float]


class RateLimiter:
    """The budgets of every client. A refused call is charged in no window."""

    def __init__(
        self, per_minute: int, per_hour: int, shared: Windows | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        items = (RateLimitItemPerMinute(per_minute or 1), RateLimitItemPerHour(per_hour or 1))
        switched_on = (per_minute > 0, per_hour > 0)
        self._items = tuple(item for item, on in zip(items, switched_on, strict=True) if on)
        self._policy = ", ".join(f"{item.amount};w={item.get_expiry()}" for item in self._items)
        self._clock = clock
        self._local = Windows(LocalWindows(clock), clock)
        self._shared = shared
        self._lock = threading.Lock()  # guards the check and the charge that follows it, and the two fields below
        self._shared_again_at = -math.inf
        self.shared_failures = 0

    def spend(self, budget: str, client: str, cost: int = 1, *, only_look: bool = False) -> Standing | None:
        """Charge `cost` requests and return what is left; None where no limit is set. only_look: charge nothing.

        Raises OverBudget, and ValidationError for a cost that no window could ever hold.
        """
        if not self._items:
            return None
        if item := next((item for item in self._items if cost > item.amount), None):
            raise ValidationError(
                f"This request counts as {cost} requests, over the limit of {item.amount} per {item.GRANULARITY.name}."
            )
        if self._shared is not None and self._shared_is_due():
            try:
                standing = self._spend_in(self._shared, budget, client, cost, only_look)
            except (StorageError, OSError) as error:
                self._shared_failed(error)
            except OverBudget:
                self._shared_works()
                raise
            else:
                self._shared_works()
                return standing
        with self._lock:
            return self._spend_in(self._local, budget, client, cost, only_look)

    def _spend_in(self, windows: Windows, budget: str, client: str, cost: int, only_look: bool) -> Standing:
        """Look at every window first and charge all of them only then, so that no refusal is charged."""
        strategy = MovingWindowRateLimiter(windows.storage)
        standings = [self._standing(strategy, windows, item, budget, client, cost) for item in self._items]
        for item in () if only_look else self._items:
            # Between copies that share Redis another one can win the last place; then this call is refused.
            if not strategy.hit(item, budget, client, cost=cost):
                raise OverBudget(item, self._measure(strategy, windows, item, budget, client))
        return min(standings, key=lambda standing: standing.remaining)

    def _standing(
        self,
        strategy: MovingWindowRateLimiter,
        windows: Windows,
        item: RateLimitItem,
        budget: str,
        client: str,
        cost: int,
    ) -> Standing:
        before = self._measure(strategy, windows, item, budget, client)
        if before.remaining < cost:
            raise OverBudget(item, before)
        return Standing(before.limit, before.remaining - cost, before.reset, before.policy)

    def _measure(
        self, strategy: MovingWindowRateLimiter, windows: Windows, item: RateLimitItem, budget: str, client: str
    ) -> Standing:
        reset, remaining = strategy.get_window_stats(item, budget, client)
        return Standing(item.amount, max(0, remaining), max(1, math.ceil(reset - windows.clock())), self._policy)

    def _shared_is_due(self) -> bool:
        """True if Redis is to be asked; after a failure one call tries it again and the others do not wait for it."""
        with self._lock:
            now = self._clock()
            if now < self._shared_again_at:
                return False
            if self._shared_again_at > -math.inf:
                self._shared_again_at = now + REDIS_PAUSE
            return True

    def _shared_failed(self, error: Exception) -> None:
        with self._lock:
            first = self._shared_again_at == -math.inf
            self._shared_again_at = self._clock() + REDIS_PAUSE
            self.shared_failures += 1
        if first:
            log.warning("RATE_LIMIT_STORAGE is away (%s): limits are counted in this process alone.", _kind_of(error))

    def _shared_works(self) -> None:
        with self._lock:
            back, self._shared_again_at = self._shared_again_at > -math.inf, -math.inf
        if back:
            log.info("RATE_LIMIT_STORAGE is back: limits are shared again.")

    @property
    def shared_is_away(self) -> bool:
        """True while limits that should be shared are counted here."""
        return self._shared_again_at > -math.inf


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
