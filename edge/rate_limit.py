"""Budgets: how many requests a client may make a minute and an hour, over moving windows.

Counted by the `limits` library, in memory or in Redis for several copies of the service. While Redis is away the
limits go on in this process alone: one log line says so, a metric counts it, and no request fails or waits for it.
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
from edge.shared_windows import UNANSWERED, SharedWindows, Windows
from engine.errors import Message, ValidationError


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
        super().__init__(_exceeded(item.amount, self.window), standing.reset)


def _exceeded(amount: int, window: str) -> Message:
    if window == "minute":
        return Message("minute_spent", "Rate limit exceeded: {n} requests per minute", n=amount)
    return Message("hour_spent", "Rate limit exceeded: {n} requests per hour", n=amount)


class RateLimiter:
    """The budgets of every client. A refused call is charged in no window."""

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
        self._lock = threading.Lock()  # guards the check and the charge that follows it

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
        if self._shared is not None and not self._shared.away:
            try:
                return self._spend_in(self._shared.windows, budget, client, cost, only_look)
            except UNANSWERED as error:
                self._shared.failed(error)
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

    @property
    def shared_failures(self) -> int:
        """How many calls the shared storage has not answered."""
        return 0 if self._shared is None else self._shared.failures
