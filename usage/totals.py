"""What accounts have used, in memory: exact for this process, with what other copies used within two seconds.

A thread of its own reads the database: every second for the accounts with budgets that were asked for within a minute,
and at once for one that is asked for first. Checks wait for no database but then, for a second at most; while it is
away they go by what this process knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from traceback import format_tb

from database.connect import failure_of
from usage.ledger import Ledger, Reading
from usage.periods import Period, day_of, month_of

log = logging.getLogger("avito_ai.budgets")

# The account of the whole service, which is no account's id.
SERVICE = ""
READ_SECONDS = 1.0
# A reading that takes long is repeated less often, so that it takes no more than a tenth of the database's time.
PAUSE_BY_DURATION = 9.0
FIRST_READING_SECONDS = 1.0
ACTIVE_SECONDS = 60.0
WATCHED_AT_ONCE = 200

# Reads what the database has of accounts, given today and this month. Raises an Exception if it cannot.
Reader = Callable[[Collection[str], Period, Period], Mapping[str, Reading]]


class Totals:
    """The ledgers of all accounts that were asked for within a minute. Thread-safe.

    reader: of the database, None without one; clock: seconds since the epoch; monotonic: seconds.
    """

    def __init__(
        self,
        reader: Reader | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock, self.monotonic = clock, monotonic
        self._reader = reader
        self._changed = threading.Condition()  # guards the ledgers and every field below
        self._ledgers: dict[str, Ledger] = {}
        self._unread: set[str] = set()
        self._reading = False  # whether a thread reads
        self._failing = False
        self._periods = (Period(0, 0), Period(0, 0))

    @property
    def failing(self) -> bool:
        """True while the database cannot be read."""
        return self._failing

    def start(self, after_reading: Callable[[], None] = lambda: None) -> None:
        """Read from now on, in a thread. after_reading: called by it once a second."""
        if self._reader is not None and not self._reading:
            self._reading = True
            threading.Thread(target=self._run, args=(after_reading,), name="usage-totals", daemon=True).start()

    def periods(self) -> tuple[Period, Period]:
        """Return today and this month."""
        now = self.clock()
        day, month = self._periods
        if now not in day:
            self._periods = day, month = day_of(now), month_of(now)
        return day, month

    @contextmanager
    def ledgers(
        self, accounts: Collection[str], *, with_budgets: bool = True, wait: bool = True
    ) -> Iterator[list[Ledger]]:
        """Yield the ledgers of accounts, of which no other thread reads or changes one meanwhile.

        with_budgets: they need what the database has; wait: for that, where it has not been read yet.
        """
        with self._changed:
            found = [self._ledger(account, with_budgets) for account in accounts]
            if with_budgets and wait and self._unread.intersection(accounts):
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_read(accounts), FIRST_READING_SECONDS)
            yield found

    @contextmanager
    def known(self, accounts: Collection[str]) -> Iterator[list[Ledger]]:
        """Yield the ledgers of those accounts that have one: that have limits, and are in use."""
        with self._changed:
            yield [self._ledgers[account] for account in accounts if account in self._ledgers]

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds of the ledgers, whose lock is held and given up meanwhile."""
        self._changed.wait_for(condition, seconds)

    def notify(self) -> None:
        """Have those look who wait for something to hold; the lock of the ledgers is held."""
        self._changed.notify_all()

    def watched(self) -> Iterator[list[tuple[str, Ledger]]]:
        """Yield the ledgers with budgets that the database was read for; some at a time, so that no request waits."""
        with self._changed:
            found = [(account, ledger) for account, ledger in self._ledgers.items() if ledger.read]
        for at in range(0, len(found), WATCHED_AT_ONCE):
            with self._changed:
                yield found[at : at + WATCHED_AT_ONCE]

    def read(self, accounts: Collection[str] | None = None) -> None:
        """Read the database for these accounts, else for all with budgets that are in use. Logs a failure once."""
        assert self._reader is not None
        with self._changed:
            wanted = self._in_use() if accounts is None else set(accounts)
            day, month = self.periods()
        try:
            self._merge(wanted, self._reader(wanted, day, month) if wanted else {})
        except Exception as error:  # of whichever database it is; the thread must go on
            self._failed(wanted, error)

    def _merge(self, wanted: set[str], readings: Mapping[str, Reading]) -> None:
        with self._changed:
            for account, reading in readings.items():
                if (ledger := self._ledgers.get(account)) is not None:
                    ledger.merge(reading)
            self._failing = self._failing and not wanted
            self._unread -= wanted
            self._changed.notify_all()

    def _ledger(self, account: str, with_budgets: bool) -> Ledger:
        now = self.monotonic()
        if (ledger := self._ledgers.get(account)) is None:
            ledger = self._ledgers[account] = Ledger(now)
        ledger.asked = now
        if with_budgets and not ledger.has_budgets:
            ledger.has_budgets = True
            if self._reading:
                self._unread.add(account)
        return ledger

    def _is_read(self, accounts: Collection[str]) -> bool:
        return self._failing or not self._unread.intersection(accounts)

    def _in_use(self) -> set[str]:
        """Forget the accounts that are not in use; return those with budgets that are."""
        now = self.monotonic()
        for account, ledger in list(self._ledgers.items()):
            if ledger.asked <= now - ACTIVE_SECONDS and ledger.is_idle(now):
                del self._ledgers[account]
                self._unread.discard(account)
        return {account for account, ledger in self._ledgers.items() if ledger.has_budgets}

    def _failed(self, wanted: set[str], error: Exception) -> None:
        with self._changed:
            if not self._failing:
                log.error("The database of usage cannot be read (%s); budgets go by what is known.", failure_of(error))
            self._failing = True
            self._unread -= wanted
            self._changed.notify_all()

    def _run(self, after_reading: Callable[[], None]) -> None:
        due = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._unread), max(0.0, due - self.monotonic()))
                new = set(self._unread)
            began = self.monotonic()
            if began < due:
                self.read(new)
                continue
            self.read()
            try:
                after_reading()
            except Exception as error:  # the thread must go on: without it budgets would not be read any more
                log.error("Unexpected %s:\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
            due = began + max(READ_SECONDS, (1 + PAUSE_BY_DURATION) * (self.monotonic() - began))
