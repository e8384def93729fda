"""Tells the operator of budgets that are nearly spent, and of those that are spent: each once a period.

A row in the database stands for what was told, so that neither a restart nor another copy tells it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Engine, delete, insert
from sqlalchemy.exc import IntegrityError

from database.strings import fitted
from database.tables import BUDGET_WARNINGS
from keys.written import in_words
from usage.budgets import Budgets
from usage.limits import Standing
from usage.periods import DAY
from usage.prices import as_money
from usage.totals import SERVICE

log = logging.getLogger("avito_ai.budgets")

NEARLY, SPENT = 80, 100  # percent
STATES = {NEARLY: "nearly_spent", SPENT: "spent"}
PERIODS = ("day", "month")
KEPT = 62 * DAY


@dataclass(frozen=True, slots=True)
class Warned:
    """What is told once: that an account, or the service, has used so many percent of a budget in a period."""

    account: str
    budget: str
    period: int
    percent: int


class BudgetWarnings:
    """Looks at the budgets of accounts in use. claim: whether this is the first to tell it; send: posts an event."""

    def __init__(
        self, budgets: Budgets, claim: Callable[[Warned], bool], send: Callable[[Mapping[str, object]], None]
    ) -> None:
        self._budgets, self._claim, self._send = budgets, claim, send
        self._told: set[Warned] = set()
        self._states: dict[str, int] = dict.fromkeys(STATES.values(), 0)
        self._shares = dict.fromkeys(PERIODS, 0.0)

    def states(self) -> Mapping[str, int]:
        """Return the number of budgets of accounts by state, as of the last look."""
        return self._states

    def shares(self) -> Mapping[str, float]:
        """Return the used share of the service's budgets by period, as of the last look; 0 without a budget."""
        return self._shares

    def look(self) -> None:
        """Tell what is new. Called once a second; never raises."""
        states, shares, told = dict.fromkeys(STATES.values(), 0), dict.fromkeys(PERIODS, 0.0), set[Warned]()
        reachable = True  # once the database is not, its next time-out would only keep budgets from being read
        for account, name, standing in chain.from_iterable(self._budgets.all_standings()):
            if account == SERVICE:
                shares[standing.limit.rpartition("_")[2]] = standing.used / standing.amount
            percent = reached(standing)
            if percent is None:
                continue
            if account != SERVICE:
                states[STATES[percent]] += 1
            warned = Warned(account, standing.limit, standing.period.start, percent)
            if warned not in self._told:
                reachable = reachable and self._tell(warned, name, standing)
                if not reachable:
                    continue
            told.add(warned)
        self._states, self._shares, self._told = states, shares, told

    def _tell(self, warned: Warned, name: str, standing: Standing) -> bool:
        """Return whether it has been told; while the database is away nobody knows, and it waits."""
        try:
            first = self._claim(warned)
        except Exception:  # of whichever database it is; reading it fails too, and is logged
            return False
        if first:
            event = event_of(warned, name, standing, self._budgets.currency)
            log.warning("%s", event["text"])
            self._send(event)
        return True


def reached(standing: Standing) -> int | None:
    """Return which share of a budget is reached, in percent; None for less than is told."""
    if standing.amount == 0:
        return None
    return next((percent for percent in (SPENT, NEARLY) if standing.used * 100 >= standing.amount * percent), None)


def event_of(warned: Warned, name: str, standing: Standing, currency: str) -> dict[str, object]:
    """Return what is posted. `text` is a sentence, which Slack and Mattermost show."""
    in_money = standing.limit.startswith("money")
    unit = currency if in_money else "tokens"
    used, amount = (as_money(one) if in_money else str(one) for one in (standing.used, standing.amount))
    whose = "The service" if warned.account == SERVICE else f"{name or warned.account}"
    per, renews = standing.limit.rpartition("_")[2], in_words(standing.period.end)
    text = f"{whose} has used {used} of {amount} {unit} per {per}; the budget renews at {renews}."
    return {
        "event": "budget_exceeded" if warned.percent == SPENT else "budget_warning",
        "text": text,
        "account": warned.account or "service",
        "name": name,
        "budget": standing.limit,
        "percent": warned.percent,
        "used": used,
        "amount": amount,
        "unit": unit,
        "period_start": in_words(standing.period.start),
        "renews_at": renews,
    }


def claim_in(engine: Callable[[], Engine], now: Callable[[], float]) -> Callable[[Warned], bool]:
    """Return what notes in a database that something is told, and whether nobody has told it before."""

    def claim(warned: Warned) -> bool:
        row: dict[str, Any] = {
            "account": fitted(warned.account, BUDGET_WARNINGS.c.account),
            "budget": warned.budget,
            "period": warned.period,
            "percent": warned.percent,
        }
        try:
            with engine().begin() as connection:
                connection.execute(insert(BUDGET_WARNINGS).values(row))
                connection.execute(delete(BUDGET_WARNINGS).where(BUDGET_WARNINGS.c.period < int(now()) - KEPT))
        except IntegrityError:
            return False
        return True

    return claim
