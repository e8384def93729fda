"""Budgets as one service has them: from its settings, over its database, with warnings and a webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Engine

from config import Settings, full_names
from keys.account import Limits
from usage.budget_warnings import BudgetWarnings, claim_in
from usage.budgets import Budgets
from usage.database_totals import DatabaseTotals
from usage.limits import LIMITS
from usage.prices import Prices
from usage.shares import Everywhere
from usage.totals import Totals
from usage.webhook import Webhook


@dataclass(frozen=True)
class Spending:
    """The budgets and what watches them. webhook: None without an address."""

    budgets: Budgets
    warnings: BudgetWarnings
    webhook: Webhook | None

    def begin(self) -> None:
        """Start to read the database and to watch; once the process is forked."""
        if self.webhook is not None:
            self.webhook.start()
        self.budgets.totals.start(self.warnings.look)

    def webhook_failures(self) -> int:
        """Return how many events were not posted."""
        return 0 if self.webhook is None else self.webhook.failures


def spending_of(
    settings: Settings,
    engine: Callable[[], Engine],
    journals: Callable[[], tuple[str, str]],
    everywhere: Everywhere | None = None,
    elsewhere: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Spending:
    """Return what the settings ask for.

    engine: opens the database; journals: as of `DatabaseTotals`; everywhere: as of `Budgets`; elsewhere: of `Totals`.
    """
    given = settings.spending
    budgets = Budgets(
        Totals(DatabaseTotals(engine, journals), elsewhere=elsewhere),
        Prices(given.prices, full_names(settings.model)),
        given.currency,
        Limits(**{name: getattr(given, f"default_{name}") for name in LIMITS}),
        Limits(money_per_day=given.budget_per_day, money_per_month=given.budget_per_month),
        everywhere=everywhere,
    )
    webhook = None if given.budget_webhook_url is None else Webhook(given.budget_webhook_url)
    send = _nowhere if webhook is None else webhook.send
    return Spending(budgets, BudgetWarnings(budgets, claim_in(engine, time.time), send), webhook)


def _nowhere(event: Mapping[str, object]) -> None:
    """Post nothing."""
