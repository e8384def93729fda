"""Which limits an account has, what is left of each, and the refusal of a request beyond one.

A request is admitted while what was used and what requests in flight may use at most is below every limit. So an
account exceeds a budget by no more than one request's own maximum, however many arrive together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

from engine.errors import RetryLater
from keys.account import Limits
from usage import sentences
from usage.errors import BudgetExceeded, HeldBack, LimitReached
from usage.ledger import Ledger
from usage.periods import Period

# A client whose request would fit if those in flight used less than they may is to try again after these seconds.
IN_FLIGHT_SECONDS = 1
BUDGETS = ("tokens_per_day", "tokens_per_month", "money_per_day", "money_per_month")
LIMITS = (*BUDGETS, "tokens_per_minute", "concurrent_requests")
NAMES = (*LIMITS, "service_money_per_day", "service_money_per_month")  # as refusals are counted under


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: in seconds since the epoch and on the monotonic clock, with its day and month."""

    now: float
    monotonic: float
    day: Period
    month: Period


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of one budget: of tokens, or of money in millionths. limit: its name."""

    limit: str
    amount: int
    used: int
    held: int
    period: Period

    @property
    def remaining(self) -> int:
        """Return what no request has used, nor may use."""
        return max(0, self.amount - self.used - self.held)


@lru_cache(4096)
def with_defaults(own: Limits, defaults: Limits) -> Limits:
    """Return an account's limits, with the defaults where it has none of its own."""
    mine = {field.name: getattr(own, field.name) for field in fields(Limits)}
    return Limits(**{name: getattr(defaults, name) if value is None else value for name, value in mine.items()})


@lru_cache(4096)
def has_budgets(limits: Limits) -> bool:
    """Return whether any limit of a day or a month is set."""
    return any(getattr(limits, name) is not None for name in BUDGETS)


@lru_cache(4096)
def has_any(limits: Limits) -> bool:
    """Return whether any limit is set that is held here."""
    return any(getattr(limits, name) is not None for name in LIMITS)


def standings(ledger: Ledger, limits: Limits, moment: Moment) -> Iterator[Standing]:
    """Yield where the account stands with each budget that it has."""
    for name in BUDGETS:
        amount = getattr(limits, name)
        if amount is not None:
            period = moment.day if name.endswith("_day") else moment.month
            used, held = ledger.used_in(period), ledger.held
            if name.startswith("tokens"):
                yield Standing(name, amount, used.tokens, held.tokens, period)
            else:
                yield Standing(name, amount, used.cost, held.cost, period)


def spent(ledger: Ledger, limits: Limits, moment: Moment, currency: str, of_service: bool = False) -> RetryLater | None:
    """Return why more of a budget or of a minute may not be used, None if it may: the refusal that lasts longest."""
    over = [standing for standing in standings(ledger, limits, moment) if standing.used >= standing.amount]
    if over:
        last = max(over, key=lambda standing: standing.period.end)
        name, renews = _name(last, of_service), last.period.end
        message = sentences.spent(name, last.amount, currency, renews)
        return BudgetExceeded(message, math.ceil(renews - moment.now), name)
    tokens = limits.tokens_per_minute
    if tokens is not None and ledger.spent_this_minute(moment.monotonic) >= tokens:
        seconds = math.ceil(ledger.minute_frees(moment.monotonic, tokens))
        return LimitReached(sentences.minute_of_tokens(tokens), seconds, "tokens_per_minute")
    return None


def crowded(ledger: Ledger, limits: Limits) -> LimitReached | None:
    """Return why another request of the account is refused beside those in flight, None if it is not."""
    most = limits.concurrent_requests
    if most is None or ledger.running < most:
        return None
    return LimitReached(sentences.concurrent(most), IN_FLIGHT_SECONDS, "concurrent_requests")


def held_back(ledger: Ledger, limits: Limits, moment: Moment, of_service: bool = False) -> HeldBack | None:
    """Return the refusal of a request for which requests in flight may leave nothing, None if they leave something."""
    full = [_name(standing, of_service) for standing in standings(ledger, limits, moment) if not standing.remaining]
    minute = limits.tokens_per_minute
    if minute is not None and ledger.spent_this_minute(moment.monotonic) + ledger.held.tokens >= minute:
        full.append("tokens_per_minute")
    return HeldBack(sentences.in_flight(), IN_FLIGHT_SECONDS, full[0]) if full else None


def _name(standing: Standing, of_service: bool) -> str:
    return f"service_{standing.limit}" if of_service else standing.limit
