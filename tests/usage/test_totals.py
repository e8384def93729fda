"""The ledgers in memory: how many there are, and how long their lock is held."""

from contextlib import contextmanager

import pytest

from keys.account import Limits, of_address
from tests.fakes import Clock
from tests.usage.test_budgets import MODEL, NOON, PRICES, Shop, admit, holder
from usage.budgets import Budgets
from usage.database_totals import DatabaseTotals
from usage.errors import BudgetExceeded, HeldBack
from usage.journal import Journal
from usage.ledger import Ledger, Reading, Used
from usage.periods import DAY, day_of, month_of
from usage.recorder import Recorder
from usage.store import Bounds
from usage.totals import Totals


@pytest.fixture
def shop():
    """Budgets over clocks that stand still."""
    return Shop()


def test_the_gate_keeps_nothing_of_whom_it_looks_at():
    """Whoever comes once from each of many addresses takes no memory before a thread has its request."""
    shop = Shop(tokens_per_day=100)
    budgets = Budgets(shop.totals, PRICES, defaults=Limits(tokens_per_day=0), service=Limits(tokens_per_day=100))
    for number in range(100):
        assert budgets.refusal(holder(f"192.0.2.{number}")).limit == "tokens_per_day"
        assert shop.budgets.refusal(holder(f"192.0.2.{number}")) is None
    assert not shop.totals._ledgers


def test_an_account_that_only_the_gate_refuses_stays_in_use(shop):
    """Else its budget would be read anew every minute."""
    account = holder(tokens_per_day=5)
    shop.answer(account, 5)
    shop.store()
    for _ in range(5):
        shop.monotonic.advance(40)
        shop.totals.read()
        assert shop.budgets.refusal(account).limit == "tokens_per_day"


def test_idle_accounts_are_forgotten_where_they_are_too_many(shop, monkeypatch):
    """Those asked for longest ago; what runs, or is not stored yet, stays, and its account is found again."""
    monkeypatch.setattr("usage.totals.MAX_IDLE", 20)
    running, waiting = holder("key:running", tokens_per_day=90), holder("key:waiting", tokens_per_day=90)
    reservation = admit(shop, running)
    shop.answer(waiting, 7)
    for number in range(500):
        shop.budgets.check(holder(f"192.0.2.{number}", tokens_per_day=90))
    ledgers = shop.totals._ledgers
    assert len(ledgers) <= 20
    assert ledgers.keys() >= {"key:running", "key:waiting", "192.0.2.499", "192.0.2.490"}
    assert shop.budgets.standings(running)[0].held == 20
    assert shop.budgets.standings(waiting)[0].used == 7
    reservation.release()


def test_accounts_whose_answers_wait_for_the_database_are_bounded_too(shop, monkeypatch):
    """While it is away for days; what has requests in flight stays, and what was forgotten counts once it is stored."""
    monkeypatch.setattr("usage.totals.MAX_IDLE", 20)
    monkeypatch.setattr("usage.totals.MAX_LEDGERS", 50)
    first = holder("192.0.2.0", tokens_per_day=90)
    reservation = admit(shop, holder("key:running", tokens_per_day=90))
    for number in range(500):
        shop.answer(holder(f"192.0.2.{number}", tokens_per_day=90), 7)
    assert len(shop.totals._ledgers) <= 50
    assert "key:running" in shop.totals._ledgers
    shop.store()
    shop.budgets.check(first)
    shop.totals.read()
    assert shop.budgets.standings(first)[0].used == 7
    reservation.release()


def test_whoever_looks_at_all_accounts_gives_up_the_lock_between(shop, monkeypatch):
    """The thread that reads, and the warnings: after so many accounts, those who wait for the lock get it."""
    monkeypatch.setattr("usage.totals.AT_ONCE", 10)
    held, looked_at = [], []
    monkeypatch.setattr("usage.totals.time.sleep", lambda seconds: held.append(shop.totals._changed._is_owned()))
    for number in range(45):
        shop.answer(holder(f"192.0.2.{number}", tokens_per_day=90), 1)
    shop.store()
    shop.totals.read()
    assert held == [False] * 8  # four to find them, and four to merge what was read
    for some in shop.budgets.all_standings():
        looked_at.append(len(some))
        assert not shop.totals._changed._is_owned()
    assert looked_at == [10, 10, 10, 10, 5]


def test_what_is_forgotten_while_the_database_is_read_is_read_again(shop):
    """An account that is asked for anew meanwhile waits for its own reading."""
    account, asked = holder(tokens_per_day=9), []
    shop.elsewhere(account, 9)
    shop.totals._reading = True

    def read(accounts, day, month):
        asked.append(set(accounts))
        found = shop.read(accounts, day, month)
        shop.totals._forget(account.id)
        return found

    with shop.totals._changed:
        shop.totals._ledger(account.id, with_budgets=True)
    shop.totals._reader = read
    shop.totals.read()
    with shop.totals._changed:
        shop.totals._ledger(account.id, with_budgets=True)
    assert [*shop.totals._unread] == [account.id]


def test_an_account_that_has_used_nothing_takes_little_memory():
    """Most accounts of an open service are such."""
    ledger = Ledger(0.0)
    ledger.merge(Reading(day_of(NOON), month_of(NOON), 10, Used(), Used()))
    assert (ledger._entries, ledger._minute) == (None, None)
    ledger.add(20, NOON, 5, 5)
    ledger.add_to_minute(0.0, 5)
    assert (len(ledger._entries), len(ledger._minute)) == (1, 1)
    ledger.merge(Reading(day_of(NOON), month_of(NOON), 20, Used(5, 5), Used(5, 5)))
    assert ledger.spent_this_minute(100.0) == 0
    assert (ledger._entries, ledger._minute) == (None, None)


class Late:
    """Budgets over a database that counts three addresses a day apart."""

    def __init__(self, database, folder, new_record, **limits):
        self.clock, self.monotonic, self._new_record = Clock(NOON), Clock(), new_record
        self.recorder = Recorder(database.engine, folder, bounds=Bounds(addresses=3))
        self.totals = Totals(
            DatabaseTotals(database.engine, lambda: self.recorder.journals), self.clock, self.monotonic
        )
        self.budgets = Budgets(self.totals, PRICES, defaults=Limits(**limits), patience=0)
        self.recorder._journal = Journal(folder / "usage")
        for number in range(3):
            self.answer(f"192.0.2.{number}", 1)
        self.store()

    def answer(self, address, tokens, read_first=False):
        self.budgets.check(of_address(address))
        record = self._new_record(account=address, at=self.clock(), input_tokens=tokens, output_tokens=0, cost=tokens)
        position = self.recorder.record(record)
        if read_first:
            self.store()
        self.budgets.count(address, position, tokens, tokens)

    def store(self):
        assert self.recorder.catch_up()
        self.totals.read()

    def used(self, address):
        return self.budgets.standings(of_address(address))[0].used


@pytest.fixture
def late(database, tmp_path, new_record):
    """A hundred tokens a day, and 150 a month."""
    return Late(database, tmp_path, new_record, tokens_per_day=100, tokens_per_month=150)


@pytest.mark.parametrize("read_first", [False, True])
def test_the_budget_of_an_address_that_the_database_joins_with_others_holds(late, read_first):
    """Though the answers are stored before, or after, they are counted here; by day and by month."""
    for day in range(2):
        for _ in range(5 if day == 0 else 3):
            late.answer("192.0.2.9", 20, read_first)
            late.store()
        with pytest.raises(BudgetExceeded) as refused:
            late.answer("192.0.2.9", 20, read_first)
        assert refused.value.limit == ("tokens_per_day", "tokens_per_month")[day]
        late.clock.advance(DAY)
        for number in range(3):
            late.answer(f"192.0.2.{number}", 1)
        late.store()
    assert late.used("192.0.2.1") == 1


def test_what_is_joined_counts_once(late):
    """However often the database is read; and an address that is counted apart counts by its rows alone."""
    for address in ("192.0.2.1", "192.0.2.9"):
        late.answer(address, 20)
        for _ in range(3):
            late.store()
    assert (late.used("192.0.2.1"), late.used("192.0.2.9"), late.used("192.0.2.8")) == (21, 20, 0)


def test_what_is_joined_outlives_a_forgotten_ledger(late, monkeypatch):
    """An address that comes back hours later has used what it had used; of too many, the last ones are kept."""
    monkeypatch.setattr("usage.totals.MAX_JOINED", 4)
    for number in range(10, 16):
        late.answer(f"192.0.2.{number}", 20)
    late.store()
    late.monotonic.advance(200)
    late.totals.read()
    assert not late.totals._ledgers
    assert [late.used(f"192.0.2.{number}") for number in range(10, 16)] == [0, 0, 20, 20, 20, 20]
    assert not late.totals._joined


class Elsewhere:
    """What a thread does around its waits. now: whether it is within; entered: how often it was."""

    def __init__(self, totals):
        self.totals, self.now, self.entered = totals, False, 0

    @contextmanager
    def __call__(self):
        assert not self.totals._changed._is_owned()
        self.now, self.entered = True, self.entered + 1
        yield
        assert not self.totals._changed._is_owned()
        self.now = False


@pytest.fixture
def elsewhere(shop):
    """That of the totals of the shop."""
    shop.totals.elsewhere = Elsewhere(shop.totals)
    return shop.totals.elsewhere


class Waits:
    """A wait that only moves the clock by its whole time, and is noted."""

    def __init__(self, shop, elsewhere, then=lambda: None):
        self._shop, self._elsewhere, self._then, self.seconds = shop, elsewhere, then, []

    def __call__(self, condition, seconds):
        assert self._elsewhere.now
        self.seconds.append(seconds)
        self._shop.monotonic.advance(seconds)
        self._then()
        return condition()


def test_a_reading_that_takes_long_is_waited_for_once(shop, elsewhere, monkeypatch):
    """Neither again with each request of the account, nor by others; once it has ended, new ones are waited for."""
    waits = Waits(shop, elsewhere)
    monkeypatch.setattr(shop.totals._changed, "wait_for", waits)
    shop.totals._reading = True
    for _ in range(3):
        admit(shop, holder(tokens_per_day=90)).release()
        shop.budgets.check(holder("key:b", tokens_per_day=90))
    assert waits.seconds == [1.0]
    shop.totals.read()
    shop.budgets.check(holder("key:c", tokens_per_day=90))
    assert waits.seconds == [1.0, 1.0]


def test_what_is_known_is_not_waited_for(shop, elsewhere):
    """No request leaves its turn for nothing."""
    account = holder(tokens_per_day=1000, concurrent_requests=3)
    admit(shop, account).release()
    shop.answer(account, 5)
    shop.budgets.standings(account)
    assert elsewhere.entered == 0


@pytest.mark.parametrize("room", [True, False])
def test_sizes_of_prompts_are_waited_for_elsewhere(shop, elsewhere, monkeypatch, room):
    """Whether they leave room in the end or not; a request that gets none holds nothing back."""
    account = holder(tokens_per_day=1000)
    first = shop.budgets.admit(account, MODEL, {0: (4096, 100)})
    waits = Waits(shop, elsewhere, lambda: first.narrow(0, 20 if room else 2000, 100))
    monkeypatch.setattr(shop.totals._changed, "wait_for", waits)
    if room:
        shop.budgets.admit(account, MODEL, {0: (4096, 100)}).release()
    else:
        with pytest.raises(HeldBack):
            shop.budgets.admit(account, MODEL, {0: (4096, 100)})
    assert len(waits.seconds) == 1
    first.release()
    (ledger,) = shop.totals._ledgers.values()
    assert (ledger.running, ledger.held, ledger.unsized) == (0, Used(), 0)


def test_other_copies_are_asked_and_told_elsewhere(shop, elsewhere):
    """Each exchange with Redis may take a quarter of a second; of nothing new there is none."""
    calls = []

    class Others:
        def admit(self, account, request, before, limits):
            calls.append(("admit", elsewhere.now))

        def tell(self, account, request):
            calls.append(("tell", elsewhere.now))

        def count(self, account, tokens):
            calls.append(("count", elsewhere.now))

    budgets, account = Budgets(shop.totals, PRICES, everywhere=Others()), holder(tokens_per_minute=1000)
    budgets.check(account)
    reservation = budgets.admit(account, MODEL, {0: (20, 10)})
    for _ in range(2):
        reservation.narrow(0, 5, 10)
    budgets.count(account.id, 10, 12, 0)
    reservation.release()
    assert calls == [("admit", True), ("tell", True), ("count", True), ("tell", True)]
    assert elsewhere.entered == 4


def test_a_request_that_other_copies_leave_no_room_for_is_never_told_to_them(shop):
    """It would count in them while it is refused here."""
    told = []

    class Others:
        def admit(self, account, request, before, limits):
            return HeldBack("There is no room.", 1, "tokens_per_minute")

        def tell(self, account, request):
            told.append(request)

    budgets, account = Budgets(shop.totals, PRICES, everywhere=Others()), holder(tokens_per_minute=1000)
    with pytest.raises(HeldBack):
        budgets.admit(account, MODEL, {0: (20, 10)})
    assert told == []
