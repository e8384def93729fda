"""Admits requests within the limits of their account and of the service, and counts what each answer used.

A request holds back what it may use at most, from its admission to its end: first by the context of the model, and once
its prompts are tokenized by their own size. Each answer is counted at its end, however it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from engine.errors import RetryLater
from keys.account import Account, Limits
from usage.ledger import Ledger, Used
from usage.limits import Moment, Standing, has_budgets, refusal, standings, with_defaults
from usage.prices import Price, Prices
from usage.totals import SERVICE, Totals

NO_LIMITS = Limits()


class Budgets:
    """The limits of all accounts. defaults: of those without own ones; service: of all together. Thread-safe."""

    def __init__(
        self,
        totals: Totals,
        prices: Prices,
        currency: str = "",
        defaults: Limits = NO_LIMITS,
        service: Limits = NO_LIMITS,
    ) -> None:
        self.totals, self.prices, self.currency = totals, prices, currency
        self._defaults, self.service = defaults, service
        self._service_counts = has_budgets(service)

    def limits_of(self, account: Account) -> Limits:
        """Return the limits that an account has."""
        return account.limits if self._defaults == NO_LIMITS else with_defaults(account.limits, self._defaults)

    def refusal(self, account: Account) -> RetryLater | None:
        """Return why a request of the account would be refused now, None if it would be admitted. Never waits."""
        return self._look(account, wait=False)

    def check(self, account: Account) -> None:
        """Raise BudgetExceeded or LimitReached where a request of the account would be refused now."""
        if (found := self._look(account, wait=True)) is not None:
            raise found

    def admit(self, account: Account, model: str, most_tokens: Sequence[tuple[int, int]]) -> Reservation:
        """Admit one request. most_tokens: of each answer, in its prompt and in itself. Raises as `check` does."""
        price, limits = self.prices.of(model), self.limits_of(account)
        reservation = Reservation(self, account.id, price, most_tokens)
        with self.totals.ledgers(self._accounts(account.id), with_budgets=self._reads(limits)) as ledgers:
            if (found := self._refusal(ledgers, limits)) is not None:
                raise found
            held = reservation.held
            for ledger in ledgers:
                ledger.running += 1
                ledger.held.add(held.tokens, held.cost)
        return reservation

    def count(self, account: str, position: int, tokens: int, cost: int) -> None:
        """Count an answer of an account. position: in this process's journal of usage."""
        totals = self.totals
        with self.ledgers_of(account) as ledgers:
            for ledger in ledgers:
                ledger.add_to_minute(totals.monotonic(), tokens)
                if ledger.has_budgets:
                    ledger.add(position, totals.clock(), tokens, cost)

    def standings(self, account: Account) -> list[Standing]:
        """Return where the account stands with each of its budgets."""
        limits = self.limits_of(account)
        with self.totals.ledgers([account.id], with_budgets=self._reads(limits)) as (ledger,):
            return list(standings(ledger, limits, self._moment()))

    def ledgers_of(self, account: str) -> AbstractContextManager[list[Ledger]]:
        """Give the ledgers that an account's requests count in, without looking at the database."""
        return self.totals.ledgers(self._accounts(account), with_budgets=False)

    def _look(self, account: Account, wait: bool) -> RetryLater | None:
        limits = self.limits_of(account)
        accounts, reads = self._accounts(account.id), self._reads(limits)
        with self.totals.ledgers(accounts, with_budgets=reads, wait=wait) as ledgers:
            return self._refusal(ledgers, limits)

    def _refusal(self, ledgers: list[Ledger], limits: Limits) -> RetryLater | None:
        """Return the account's own refusal, else the service's. The lock of the ledgers is held."""
        moment = self._moment()
        found = refusal(ledgers[0], limits, moment, self.currency)
        if found is None and self._service_counts:
            found = refusal(ledgers[1], self.service, moment, self.currency, of_service=True)
        return found

    def _accounts(self, account: str) -> list[str]:
        return [account, SERVICE] if self._service_counts else [account]

    def _reads(self, limits: Limits) -> bool:
        return self._service_counts or has_budgets(limits)

    def _moment(self) -> Moment:
        totals = self.totals
        return Moment(totals.clock(), totals.monotonic(), *totals.periods())


class Reservation:
    """What one admitted request may still use at most. `release` must be called in any case; it may be called twice."""

    def __init__(self, budgets: Budgets, account: str, price: Price, most_tokens: Sequence[tuple[int, int]]) -> None:
        self._budgets, self._account, self._price = budgets, account, price
        self._open = {number: self._most(*sizes) for number, sizes in enumerate(most_tokens)}
        self._running = True

    @property
    def held(self) -> Used:
        """What the answers that have not ended may use at most."""
        return sum(self._open.values(), Used())

    def narrow(self, number: int, prompt_tokens: int, max_tokens: int) -> None:
        """Hold back what an answer may use at most, now that its prompt is tokenized."""
        with self._budgets.ledgers_of(self._account) as ledgers:
            if number in self._open:
                self._hold(ledgers, number, self._most(prompt_tokens, max_tokens))

    def ended(self, number: int) -> None:
        """Hold nothing back for an answer that has ended, and been counted."""
        with self._budgets.ledgers_of(self._account) as ledgers:
            if number in self._open:
                self._hold(ledgers, number, None)

    def release(self) -> None:
        """Have the request in flight no longer."""
        with self._budgets.ledgers_of(self._account) as ledgers:
            for number in list(self._open):
                self._hold(ledgers, number, None)
            if self._running:
                self._running = False
                for ledger in ledgers:
                    ledger.running -= 1

    def _hold(self, ledgers: list[Ledger], number: int, most: Used | None) -> None:
        before = self._open.pop(number)
        if most is not None:
            self._open[number] = most
        after = most or Used()
        for ledger in ledgers:
            ledger.held.add(after.tokens - before.tokens, after.cost - before.cost)

    def _most(self, prompt_tokens: int, output_tokens: int) -> Used:
        return Used(prompt_tokens + output_tokens, self._price.most(prompt_tokens, output_tokens))
