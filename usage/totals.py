"""What accounts have used, in memory: exact for this process, with what other copies used within two seconds.

A thread of its own reads the database: every second for the accounts with budgets that were asked for within a minute,
and at once for one that is asked for first. Checks wait for no database but then, for a second at most, and not while
it takes longer to answer anybody; while it is away they go by what this process knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from traceback import format_tb

from database.connect import failure_of
from usage.ledger import Ledger, Reading, Used
from usage.periods import Period, day_of, month_of

log = logging.getLogger("avito_ai.budgets")

# The account of the whole service, which is no account's id.
SERVICE = ""
READ_SECONDS = 1.0
# A reading that takes long is repeated less often, so that it takes no more than a tenth of the database's time.
PAUSE_BY_DURATION = 9.0
FIRST_READING_SECONDS = 1.0
ACTIVE_SECONDS = 60.0
# Of ledgers: beyond the first number idle ones are forgotten, those asked for longest ago first; beyond the second also
# those with answers that the database does not have yet. About 50 MB; what has requests in flight always stays.
MAX_IDLE, MAX_LEDGERS = 20_000, 50_000
MAX_JOINED = 50_000  # accounts whose sums only this process has; of more, those asked for last. About 20 MB
LOOKED_AT = 8  # of the oldest ledgers, whenever one is made
AT_ONCE = 200  # ledgers, while the lock is held by whoever looks at all
BETWEEN_SECONDS = 0.0002  # in which those who want the lock get it

# Reads what the database has of accounts, given today and this month. Raises an Exception if it cannot.
Reader = Callable[[Collection[str], Period, Period], Mapping[str, Reading]]


class Totals:
    """The ledgers of the accounts that were asked for within a minute, as many as there is room for. Thread-safe.

    reader: of the database, None without one; clock: seconds since the epoch; monotonic: seconds. elsewhere: what a
    thread does around a wait, with no lock held.
    """

    def __init__(
        self,
        reader: Reader | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        elsewhere: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.clock, self.monotonic, self.elsewhere = clock, monotonic, elsewhere
        self._reader = reader
        self._changed = threading.Condition()  # guards the ledgers and every field below
        self._ledgers = OrderedDict[str, Ledger]()  # the one asked for longest ago first
        self._joined = OrderedDict[str, dict[int, Used]]()  # `Ledger.joined` of those that were forgotten
        self._unread: dict[str, float] = {}  # since when
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
    def ledgers(self, accounts: Collection[str], *, with_budgets: bool = True) -> Iterator[list[Ledger]]:
        """Yield the ledgers of accounts, of which no other thread reads or changes one meanwhile.

        with_budgets: they need what the database has, which is waited for where it has not been read yet.
        """
        with self._changed:
            found = [self._ledger(account, with_budgets) for account in accounts]
            patience = self._patience_for(accounts) if with_budgets else 0.0
            if patience <= 0:
                yield found
                return
            self._changed.notify_all()
        with self.elsewhere(), self._changed:
            self._changed.wait_for(lambda: self._is_read(accounts), patience)
        with self._changed:
            yield [self._ledger(account, with_budgets) for account in accounts]

    @contextmanager
    def look(self, accounts: Collection[str]) -> Iterator[list[Ledger]]:
        """Yield the ledgers of accounts as they are known; an empty one, which is not kept, of an unknown account."""
        with self._changed:
            yield [self._touched(account) or Ledger(self.monotonic()) for account in accounts]

    @contextmanager
    def known(self, accounts: Collection[str]) -> Iterator[dict[str, Ledger]]:
        """Yield the ledgers of those accounts that have one: that have limits, and are in use."""
        with self._changed:
            yield {account: self._ledgers[account] for account in accounts if account in self._ledgers}

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds of the ledgers, whose lock is held and given up meanwhile."""
        self._changed.wait_for(condition, seconds)

    def notify(self) -> None:
        """Have those look who wait for something to hold; the lock of the ledgers is held."""
        self._changed.notify_all()

    def portions(self) -> Iterator[list[str]]:
        """Yield the accounts that have a ledger, some at a time, for whoever looks at all without holding others up."""
        with self._changed:
            accounts = list(self._ledgers)
        for at in range(0, len(accounts), AT_ONCE):
            if at:
                time.sleep(BETWEEN_SECONDS)
            yield accounts[at : at + AT_ONCE]

    def read(self, accounts: Collection[str] | None = None) -> None:
        """Read the database for these accounts, else for all with budgets that are in use. Logs a failure once."""
        assert self._reader is not None
        wanted = self._in_use() if accounts is None else set(accounts)
        with self._changed:
            day, month = self.periods()
        try:
            self._merge(wanted, self._reader(wanted, day, month) if wanted else {})
        except Exception as error:  # of whichever database it is; the thread must go on
            self._failed(wanted, error)

    def _merge(self, wanted: set[str], readings: Mapping[str, Reading]) -> None:
        for accounts in self.portions():
            with self.known(wanted.intersection(accounts)) as ledgers:
                for account, ledger in ledgers.items():
                    ledger.merge(readings[account])
                    self._unread.pop(account, None)
        with self._changed:
            self._failing = self._failing and not wanted
            self._changed.notify_all()

    def _ledger(self, account: str, with_budgets: bool) -> Ledger:
        if (ledger := self._touched(account)) is None:
            self._bound()
            ledger = self._ledgers[account] = Ledger(self.monotonic(), joined=self._joined.pop(account, {}))
        if with_budgets and not ledger.has_budgets:
            ledger.has_budgets = True
            if self._reading:
                self._unread[account] = self.monotonic()
        return ledger

    def _touched(self, account: str) -> Ledger | None:
        """Return the ledger of an account as the one asked for last, None where there is none."""
        if (ledger := self._ledgers.get(account)) is not None:
            self._ledgers.move_to_end(account)
            ledger.asked = self.monotonic()
        return ledger

    def _bound(self) -> None:
        """Forget some of the ledgers that are too many. One that stays is looked at again after all others."""
        now = self.monotonic()
        for _ in range(LOOKED_AT if len(self._ledgers) >= MAX_IDLE else 0):
            account, ledger = next(iter(self._ledgers.items()))
            if ledger.is_idle(now) or (len(self._ledgers) >= MAX_LEDGERS and not ledger.in_flight):
                self._forget(account)
            else:
                self._ledgers.move_to_end(account)

    def _forget(self, account: str) -> None:
        if joined := self._ledgers.pop(account).joined:
            self._joined[account] = joined
            if len(self._joined) > MAX_JOINED:
                self._joined.popitem(last=False)
        self._unread.pop(account, None)

    def _is_read(self, accounts: Collection[str]) -> bool:
        return self._failing or self._unread.keys().isdisjoint(accounts)

    def _patience_for(self, accounts: Collection[str]) -> float:
        """Return how many seconds are waited for a reading of accounts: none while one of any account takes longer."""
        if self._is_read(accounts):
            return 0.0
        oldest = next(iter(self._unread.values()))
        since = max(self._unread.get(account, oldest) for account in accounts)
        return 0.0 if self._is_late(oldest) else since + FIRST_READING_SECONDS - self.monotonic()

    def _is_late(self, since: float) -> bool:
        return self.monotonic() >= since + FIRST_READING_SECONDS

    def _in_use(self) -> set[str]:
        """Forget the accounts that are not in use; return those with budgets that are."""
        now, found = self.monotonic(), set[str]()
        for accounts in self.portions():
            with self.known(accounts) as ledgers:
                for account, ledger in ledgers.items():
                    if ledger.asked <= now - ACTIVE_SECONDS and ledger.is_idle(now):
                        self._forget(account)
                    elif ledger.has_budgets:
                        found.add(account)
        return found

    def _failed(self, wanted: set[str], error: Exception) -> None:
        with self._changed:
            if not self._failing:
                log.error("The database of usage cannot be read (%s); budgets go by what is known.", failure_of(error))
            self._failing = True
            for account in wanted:
                self._unread.pop(account, None)
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
