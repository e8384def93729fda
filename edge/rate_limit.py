"""Rate limits: how many requests a client may make per minute and per hour, in moving windows.

This process counts in its memory or, for several copies of the service, through the `limits` library in Redis. While
Redis is unavailable, it counts on its own: one log line reports it, a metric counts it, and no request fails or waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute

from edge.errors import RateLimitExceeded
from edge.local_windows import LocalWindows
from edge.route_table import Budget
from edge.shared_windows import SharedWindows, StoredWindows
from edge.turns import elsewhere
from engine.errors import Message, ValidationError
from keys.account import Limits

NO_LIMITS = Limits()
TIMES = {one.value: one.times for one in Budget}


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


SET_BUDGETS = frozenset(one.value for one in Budget)
TRIES_SPENT = Message("key_tries_spent", "Too many wrong keys from this address.")


class Windows(Protocol):
    """Where requests are counted, by budget and client: in this process, or in Redis."""

    def used(self, item: RateLimitItem, budget: str, client: str) -> tuple[float, int]: ...
    def take(self, item: RateLimitItem, budget: str, client: str, cost: int) -> bool: ...


class OverBudget(RateLimitExceeded):
    """The client's budget of this name is spent; `window` is `minute` or `hour`.

    The number is that of `setting`, or of `limit` if the client has one of its own; the other is None. For tries of
    keys, whose number is no setting, both are.
    """

    def __init__(self, item: RateLimitItem, quota: Quota, budget: str, own: bool = False) -> None:
        self.window, self.budget = item.GRANULARITY.name, budget
        of_tries = budget not in SET_BUDGETS
        self.setting = None if own or of_tries else f"RATE_LIMIT_PER_{self.window.upper()}"
        self.limit = f"requests_per_{self.window}" if own else None
        self.quota = quota
        super().__init__(TRIES_SPENT if of_tries else _exceeded(item.amount, self.window), quota.reset)


def _exceeded(amount: int, window: str) -> Message:
    if window == "minute":
        return Message("minute_spent", "Rate limit exceeded: {n} requests per minute", n=amount)
    return Message("hour_spent", "Rate limit exceeded: {n} requests per hour", n=amount)


class _Size:
    """The windows of a budget that is `times` these numbers; 0 switches one off. own: those of the client."""

    def __init__(self, per_minute: int, per_hour: int, times: int, own: tuple[str, ...] = ()) -> None:
        self.own = own
        items = (RateLimitItemPerMinute(per_minute * times or 1), RateLimitItemPerHour(per_hour * times or 1))
        switched_on = (per_minute > 0, per_hour > 0)
        self.items = tuple(item for item, on in zip(items, switched_on, strict=True) if on)
        self.policy = ", ".join(f"{item.amount};w={item.get_expiry()}" for item in self.items)

    def over(self, item: RateLimitItem, used: int, reset: float, budget: str) -> OverBudget:
        """Return the refusal of a request that is over the limit of one window."""
        own = item.GRANULARITY.name in self.own
        return OverBudget(item, _quota(self, item, used, reset), budget, own)


@lru_cache(1024)
def _size(per_minute: int, per_hour: int, times: int, own: tuple[str, ...]) -> _Size:
    return _Size(per_minute, per_hour, times, own)


class RateLimiter:
    """The budgets of all clients. A refused request is charged in no window."""

    def __init__(
        self,
        per_minute: int,
        per_hour: int,
        shared: SharedWindows | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute, self._per_hour = per_minute, per_hour
        self._local = LocalWindows(clock)
        self._shared = shared
        self._lock = threading.Lock()  # guards a check and the charge that follows it

    def begin(self) -> None:
        """Try the shared storage, if there is one."""
        if self._shared is not None:
            self._shared.begin()

    def spend(
        self, budget: str, client: str, cost: int = 1, *, only_look: bool = False, limits: Limits = NO_LIMITS
    ) -> Quota | None:
        """Charge `cost` requests and return what is left; None if no limit is set.

        only_look: charge nothing; limits: the client's own, which count before those of the settings.
        Raises OverBudget, and ValidationError for a cost above a limit itself.
        """
        size = self._size(budget, limits)
        if not size.items:
            return None
        if item := next((item for item in size.items if cost > item.amount), None):
            raise ValidationError(
                f"This request counts as {cost} requests, over the limit of {item.amount} per {item.GRANULARITY.name}."
            )
        if self._shared is not None and not self._shared.unavailable:
            try:
                with elsewhere():
                    return self._spend_in(self._shared.windows, size, budget, client, cost, only_look)
            except OverBudget:
                raise
            except Exception as error:  # whatever comes of a storage that is away, full, or no Redis at all
                self._shared.failed(error)
        with self._lock:
            return self._spend_in(self._local, size, budget, client, cost, only_look)

    def spend_local(self, budget: str, client: str, *, only_look: bool, limits: Limits = NO_LIMITS) -> Quota | None:
        """Charge one request as `spend` does, unless another process would have to be asked: then charge nothing.

        Raises OverBudget. Never waits for the network.
        """
        size = self._size(budget, limits)
        if not size.items or (self._shared is not None and not self._shared.unavailable):
            return None
        with self._lock:
            return self._spend_in(self._local, size, budget, client, 1, only_look)

    def _size(self, budget: str, limits: Limits) -> _Size:
        per_minute, per_hour = limits.requests_per_minute, limits.requests_per_hour
        return _size(
            self._per_minute if per_minute is None else per_minute,
            self._per_hour if per_hour is None else per_hour,
            TIMES.get(budget, 1),
            tuple(window for window, set_ in (("minute", per_minute), ("hour", per_hour)) if set_ is not None),
        )

    def _spend_in(self, windows: Windows, size: _Size, budget: str, client: str, cost: int, only_look: bool) -> Quota:
        """Check every window before charging any, so that no refusal is charged. The longest refusal is told."""
        found = [(item, *windows.used(item, budget, client)) for item in size.items]
        spent = [(item, reset, used) for item, reset, used in found if used + cost > item.amount]
        if spent:
            item, reset, used = max(spent, key=_reset)
            raise size.over(item, used, reset, budget)
        for item in () if only_look else size.items:
            # Another copy that shares Redis can take the last request in between; then this one is refused.
            if not windows.take(item, budget, client, cost):
                reset, used = windows.used(item, budget, client)
                raise size.over(item, used, reset, budget)
        charged = 0 if only_look else cost
        item, reset, used = min(found, key=_remaining)
        return _quota(size, item, used + charged, reset)

    @property
    def is_shared(self) -> bool:
        """Whether several copies of the service count together."""
        return self._shared is not None

    def use_shared(self, windows: StoredWindows) -> None:
        """Count in another shared storage from now on, if one is shared at all."""
        if self._shared is not None:
            self._shared.use(windows)

    @property
    def shared_failures(self) -> int:
        """How many calls to the shared storage have failed."""
        return 0 if self._shared is None else self._shared.failures


def _reset(window: tuple[RateLimitItem, float, int]) -> float:
    return window[1]


def _remaining(window: tuple[RateLimitItem, float, int]) -> int:
    return window[0].amount - window[2]


def _quota(size: _Size, item: RateLimitItem, used: int, reset: float) -> Quota:
    return Quota(item.amount, max(0, item.amount - used), max(1, math.ceil(reset)), size.policy)
