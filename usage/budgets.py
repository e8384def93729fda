"""Admits requests within the limits of their account and of the service, and counts what each answer used.

A request holds back what it may use at most, from its admission to its end: first the context of the model, and once
its prompts are tokenized their own size. Each answer is counted at its end, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

from engine.errors import RetryLater
from keys.account import Account, Limits
from usage.errors import HeldBack
from usage.ledger import NO_LIMITS, Ledger, Used
from usage.limits import Moment, Standing, crowded, has_any, has_budgets, held_back, spent, standings, with_defaults
from usage.prices import Price, Prices
from usage.shares import Everywhere, Share, is_shared
from usage.totals import SERVICE, Totals

# While requests that came together are tokenized, the next one waits for these seconds to learn what they leave.
PATIENCE = 0.5


class Budgets:
    """The limits of all accounts. defaults: of those without own ones; service: of all together. Thread-safe.

    patience: seconds that an admission waits for the size of prompts that are being tokenized. everywhere: what all
    copies of the service hold together, None for a copy that counts by itself.
    """

    def __init__(
        self,
        totals: Totals,
        prices: Prices,
        currency: str = "",
        defaults: Limits = NO_LIMITS,
        service: Limits = NO_LIMITS,
        patience: float = PATIENCE,
        everywhere: Everywhere | None = None,
    ) -> None:
        self.totals, self.prices, self.currency = totals, prices, currency
        self._defaults, self.service, self._patience = defaults, service, patience
        self._service_counts = has_budgets(service)
        self._everywhere = everywhere

    def limits_of(self, account: Account) -> Limits:
        """Return the limits that an account has."""
        return account.limits if self._defaults == NO_LIMITS else with_defaults(account.limits, self._defaults)

    def refusal(self, account: Account) -> RetryLater | None:
        """Return what `check` would raise as far as it is known here, without waiting or keeping anything."""
        limits = self.limits_of(account)
        if not self._bounds(limits):
            return None
        with self.totals.look(self._accounts(account.id)) as ledgers:
            return self._refusal(ledgers, limits)

    def check(self, account: Account) -> None:
        """Raise what any request of the account would be refused with now: BudgetExceeded or LimitReached."""
        limits = self.limits_of(account)
        if not self._bounds(limits):
            return
        with self._ledgers(account, limits) as ledgers:
            ledgers[0].name, ledgers[0].limits = account.name, limits
            found = self._refusal(ledgers, limits)
        if found is not None:
            raise found

    def admit(self, account: Account, model: str, sizes: Mapping[int, tuple[int, int]]) -> Reservation:
        """Admit a request. sizes: the model's context and the bound of its length, for each answer by its number.

        Raises as `check` does, and HeldBack where requests in flight may leave nothing.
        """
        limits = self.limits_of(account)
        share = None
        if self._everywhere is not None and is_shared(limits):
            share = Share(self._everywhere, account.id, limits, self._patience, self.totals.elsewhere)
        reservation = Reservation(self, account, self.prices.of(model), self._bounds(limits), share)
        if not reservation.bounded:
            return reservation
        with self._ledgers(account, limits) as ledgers:
            if (found := crowded(ledgers[0], limits)) is not None:
                raise found
            for ledger in ledgers:  # before anything that waits, so that those who wait count as well
                ledger.running += 1
        try:
            reservation.hold_in_this_copy(sizes)
            reservation.agree()
        except BaseException:
            reservation.release()
            raise
        return reservation

    def count(self, account: str, position: int, tokens: int, cost: int) -> None:
        """Count an answer of an account. position: as `Recorder.record` returns it."""
        totals = self.totals
        with totals.known(self._accounts(account)) as ledgers:
            shared = any(ledger.limits.tokens_per_minute is not None for ledger in ledgers.values())
            for ledger in ledgers.values():
                ledger.add_to_minute(totals.monotonic(), tokens)
                if ledger.has_budgets:
                    ledger.add(position, totals.clock(), tokens, cost)
        if shared and self._everywhere is not None:
            with totals.elsewhere():
                self._everywhere.count(account, tokens)

    def standings(self, account: Account) -> list[Standing]:
        """Return where the account stands with each of its budgets."""
        limits = self.limits_of(account)
        with self._ledgers(account, limits) as ledgers:
            return list(standings(ledgers[0], limits, self.moment()))

    def all_standings(self) -> Iterator[list[tuple[str, str, Standing]]]:
        """Yield where accounts in use stand, and the service as SERVICE, with their names; some at a time."""
        for accounts in self.totals.portions():
            with self.totals.known(accounts) as ledgers:
                moment, found = self.moment(), []
                for account, ledger in ledgers.items():
                    if ledger.read:
                        limits = self.service if account == SERVICE else ledger.limits
                        found += [(account, ledger.name, standing) for standing in standings(ledger, limits, moment)]
            yield found

    def moment(self) -> Moment:
        """Return now. The lock of the totals is held."""
        totals = self.totals
        return Moment(totals.clock(), totals.monotonic(), *totals.periods())

    def check_room(self, ledgers: list[Ledger], limits: Limits) -> None:
        """Raise what an answer is refused with: as `check` does, but for the number of requests in flight.

        HeldBack where requests in flight may leave nothing. The lock of the ledgers is held.
        """
        if (found := self._spent(ledgers, limits)) is not None:
            raise found
        if (held := self._held_back(ledgers, limits)) is not None:
            raise held

    def wait_for_sizes(self, ledgers: list[Ledger], limits: Limits) -> None:
        """Wait until there is room, or every prompt is tokenized; gives up the lock of the ledgers meanwhile."""

        def known() -> bool:
            held = self._held_back(ledgers, limits)
            return held is None or not held.unsized

        self.totals.wait_for(known, self._patience)

    def ledgers_of(self, account: Account) -> AbstractContextManager[list[Ledger]]:
        """Give the ledgers of a request in flight, without looking at the database."""
        return self.totals.ledgers(self._accounts(account.id), with_budgets=False)

    def _ledgers(self, account: Account, limits: Limits) -> AbstractContextManager[list[Ledger]]:
        reads = self._service_counts or has_budgets(limits)
        return self.totals.ledgers(self._accounts(account.id), with_budgets=reads)

    def _refusal(self, ledgers: list[Ledger], limits: Limits) -> RetryLater | None:
        return self._spent(ledgers, limits) or crowded(ledgers[0], limits)

    def _spent(self, ledgers: list[Ledger], limits: Limits) -> RetryLater | None:
        """Return the account's own refusal, else the service's. The lock of the ledgers is held."""
        moment = self.moment()
        found = spent(ledgers[0], limits, moment, self.currency)
        if found is None and self._service_counts:
            found = spent(ledgers[1], self.service, moment, self.currency, of_service=True)
        return found

    def _held_back(self, ledgers: list[Ledger], limits: Limits) -> HeldBack | None:
        moment = self.moment()
        found = held_back(ledgers[0], limits, moment)
        if found is None and self._service_counts:
            found = held_back(ledgers[1], self.service, moment, of_service=True)
        if found is not None:
            found.unsized = any(ledger.unsized for ledger in ledgers)
        return found

    def _bounds(self, limits: Limits) -> bool:
        return self._service_counts or has_any(limits)

    def _accounts(self, account: str) -> list[str]:
        return [account, SERVICE] if self._service_counts else [account]


class Reservation:
    """What one admitted request may still use at most: held back until it is counted, which may be after its end.

    `leave` at the end, and `release` once it is counted, must be called in any case; they may be called twice.
    bounded: whether its account has any limit; without one there is nothing to hold back. share: what it is for other
    copies of the service, None where they need not know it.
    """

    def __init__(
        self, budgets: Budgets, account: Account, price: Price, bounded: bool, share: Share | None = None
    ) -> None:
        self._budgets, self._account, self._price, self.bounded = budgets, account, price, bounded
        self._share = share
        self._held: dict[int, tuple[Used, bool]] = {}  # by answer, with whether its size is known
        self._running = True

    def hold(self, sizes: Mapping[int, tuple[int, int]]) -> None:
        """Hold back the context of answers, whose prompts are not tokenized yet, as `Budgets.admit` does."""
        if not self.bounded:
            return
        self.hold_in_this_copy(sizes)
        try:
            self.agree()
        except RetryLater:
            for number in sizes:
                self.drop(number)
            raise

    def hold_in_this_copy(self, sizes: Mapping[int, tuple[int, int]]) -> None:
        """Hold back the context of answers; where sizes that are known soon may leave room, wait for them."""
        budgets = self._budgets
        try:
            with budgets.ledgers_of(self._account) as ledgers:
                self.hold_here(ledgers, sizes)
        except HeldBack as held:
            if not held.unsized:
                raise
            with budgets.totals.elsewhere(), budgets.ledgers_of(self._account) as ledgers:
                budgets.wait_for_sizes(ledgers, budgets.limits_of(self._account))
                self.hold_here(ledgers, sizes)

    def hold_here(self, ledgers: list[Ledger], sizes: Mapping[int, tuple[int, int]]) -> None:
        """Hold back the context of answers, as far as this copy knows; the lock of the ledgers is held."""
        self._budgets.check_room(ledgers, self._budgets.limits_of(self._account))
        for number, (context, max_tokens) in sizes.items():
            answer = min(context, max_tokens)
            cost = max(self._price.most(context, 0), self._price.most(context - answer, answer))
            self._put(ledgers, number, Used(context, cost), sized=False)

    def agree(self) -> None:
        """Have the other copies know what is held back. Raises what their requests leave no room for."""
        if self._share is not None:
            self._share.agree(*self._state())

    def narrow(self, number: int, prompt_tokens: int, tokens: int) -> None:
        """Hold back no more than so many tokens for an answer: at most, once its prompt is tokenized, then its own."""
        if not self.bounded:
            return
        most = Used(prompt_tokens + tokens, self._price.most(prompt_tokens, tokens))
        with self._budgets.ledgers_of(self._account) as ledgers:
            if number in self._held:
                self._put(ledgers, number, most, sized=True)
        self._tell()

    def drop(self, number: int) -> None:
        """Hold nothing back for an answer that was counted, or not admitted."""
        if not self.bounded:
            return
        with self._budgets.ledgers_of(self._account) as ledgers:
            self._take(ledgers, number)
        self._tell()

    def leave(self) -> None:
        """Have the request in flight no longer."""
        if not self.bounded:
            return
        with self._budgets.ledgers_of(self._account) as ledgers:
            self._leave(ledgers)
        self._tell()

    def release(self) -> None:
        """Leave, and hold nothing back: all is counted."""
        if not self.bounded:
            return
        with self._budgets.ledgers_of(self._account) as ledgers:
            self._leave(ledgers)
            for number in list(self._held):
                self._take(ledgers, number)
        self._tell()

    def _leave(self, ledgers: list[Ledger]) -> None:
        for ledger in ledgers if self._running else ():
            ledger.running -= 1
        self._running = False

    def _state(self) -> tuple[int, bool]:
        """Return the tokens that are held back, and whether the size of a prompt is unknown."""
        held = list(self._held.values())
        return sum(most.tokens for most, _ in held), not all(sized for _, sized in held)

    def _tell(self) -> None:
        if self._share is not None:
            tokens, unsized = self._state()
            self._share.tell(tokens, self._running, unsized)

    def _put(self, ledgers: list[Ledger], number: int, most: Used, sized: bool) -> None:
        self._take(ledgers, number)
        self._held[number] = most, sized
        for ledger in ledgers:
            ledger.held.add(most.tokens, most.cost)
            ledger.unsized += not sized

    def _take(self, ledgers: list[Ledger], number: int) -> None:
        held, sized = self._held.pop(number, (Used(), True))
        for ledger in ledgers:
            ledger.held.add(-held.tokens, -held.cost)
            ledger.unsized -= not sized
        self._budgets.totals.notify()
