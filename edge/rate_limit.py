"""Rate limits: how many requests a client may make per minute and per hour, in moving windows.

The `limits` library counts, in memory or, for several copies of the service, in Redis. While Redis is unavailable, this
process counts on its own: one log line reports it, a metric counts it, and no request fails or waits for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from edge.errors import RateLimitExceeded
from edge.local_windows import LocalWindows
from edge.shared_windows import SharedWindows, Windows
from engine.errors import Message, ValidationError


@dataclass(frozen=True, slots=True)
class Quota:
    """What a client may still use in its tightest window; `reset` is in seconds from now."""

    limit: int
    remaining: int
    reset: int
    policy: str

    def headers(self) -> dict[str, str]:
        """Return the headers of draft-ietf-httpapi-ratelimit-headers (version 06)."""
        figures = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset, "Policy": self.policy}
        return {f"RateLimit-{name}": str(value) for name, value in figures.items()}


class OverBudget(RateLimitExceeded):
    """The client's budget is spent; `window` is `minute` or `hour`."""

    def __init__(self, item: RateLimitItem, quota: Quota) -> None:
        self.window = item.GRANULARITY.name
        self.quota = quota
        super().__init__(_exceeded(item.amount, self.window), quota.reset)


def _exceeded(amount: int, window: str) -> Message:
    if window == "minute":
        return Message("minute_spent", "Rate limit exceeded: {n} requests per minute", n=amount)
    return Message("hour_spent", "Rate limit exceeded: {n} requests per hour", n=amount)


class RateLimiter:
    """The budgets of all clients. A refused request is charged in no window."""

    def __init__(
        self,
        per_minute: int,
        per_hour: int,
        shared: SharedWindows | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        items = (RateLimitItemPerMinute(per_minute or 1), RateLimitItemPerHour(per_hour or 1))
        switched_on = (per_minute > 0, per_hour > 0)
        self._items = tuple(item for item, on in zip(items, switched_on, strict=True) if on)
        self._policy = ", ".join(f"{item.amount};w={item.get_expiry()}" for item in self._items)
        self._local = Windows(LocalWindows(clock), clock)
        self._shared = shared
        self._lock = threading.Lock()  # guards a check and the charge that follows it

    def begin(self) -> None:
        """Try the shared storage, if there is one."""
        if self._shared is not None:
            self._shared.begin()

    def spend(self, budget: str, client: str, cost: int = 1, *, only_look: bool = False) -> Quota | None:
        """Charge `cost` requests and return what is left; None if no limit is set. only_look: charge nothing.

        Raises OverBudget, and ValidationError for a cost above a limit itself.
        """
        if not self._items:
            return None
        if item := next((item for item in self._items if cost > item.amount), None):
            raise ValidationError(
                f"This request counts as {cost} requests, over the limit of {item.amount} per {item.GRANULARITY.name}."
            )
        if self._shared is not None and not self._shared.unavailable:
            try:
                return self._spend_in(self._shared.windows, budget, client, cost, only_look)
            except OverBudget:
                raise
            except Exception as error:  # whatever comes of a storage that is away, full, or no Redis at all
                self._shared.failed(error)
        with self._lock:
            return self._spend_in(self._local, budget, client, cost, only_look)

    def spend_local(self, budget: str, client: str, *, only_look: bool) -> Quota | None:
        """Charge one request as `spend` does, unless another process would have to be asked: then charge nothing.

        Raises OverBudget. Never waits for the network.
        """
        if not self._items or (self._shared is not None and not self._shared.unavailable):
            return None
        with self._lock:
            return self._spend_in(self._local, budget, client, 1, only_look)

    def _spend_in(self, windows: Windows, budget: str, client: str, cost: int, only_look: bool) -> Quota:
        """Check every window before charging any, so that no refusal is charged."""
        strategy = MovingWindowRateLimiter(windows.storage)
        quotas = [self._quota_after(strategy, windows, item, budget, client, cost) for item in self._items]
        for item in () if only_look else self._items:
            # Another copy that shares Redis can take the last request in between; then this one is refused.
            if not strategy.hit(item, budget, client, cost=cost):
                raise OverBudget(item, self._quota(strategy, windows, item, budget, client))
        return min(quotas, key=lambda quota: quota.remaining)

    def _quota_after(
        self,
        strategy: MovingWindowRateLimiter,
        windows: Windows,
        item: RateLimitItem,
        budget: str,
        client: str,
        cost: int,
    ) -> Quota:
        before = self._quota(strategy, windows, item, budget, client)
        if before.remaining < cost:
            raise OverBudget(item, before)
        return Quota(before.limit, before.remaining - cost, before.reset, before.policy)

    def _quota(
        self, strategy: MovingWindowRateLimiter, windows: Windows, item: RateLimitItem, budget: str, client: str
    ) -> Quota:
        reset, remaining = strategy.get_window_stats(item, budget, client)
        return Quota(item.amount, max(0, remaining), max(1, math.ceil(reset - windows.clock())), self._policy)

    @property
    def shared_failures(self) -> int:
        """How many calls to the shared storage have failed."""
        return 0 if self._shared is None else self._shared.failures
