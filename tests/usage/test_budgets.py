"""Budgets: what is admitted, what is refused until when, and what concurrent requests can come to."""

import os
import threading
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import RetryLater
from keys.account import Account, Limits
from tests.fakes import Clock
from tests.threads import together
from usage.budgets import Budgets, Reservation
from usage.database_totals import DatabaseTotals
from usage.errors import BudgetExceeded, HeldBack, LimitReached
from usage.journal import Journal
from usage.ledger import Ledger, Reading, Used
from usage.periods import DAY, day_of, month_of
from usage.prices import Prices
from usage.recorder import Recorder
from usage.totals import SERVICE, Totals

# On a busy machine too, no test fails for the time that it takes.
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOON = 1_775_044_800  # 2026-04-01, 12:00 UTC
PRICES = Prices({"avibe": (1_000_000, 2_000_000, 500_000)})  # 1 and 2 millionths a token
MODEL = "avibe"


class Shop:
    """Budgets over clocks that stand still, and a database that is a dictionary."""

    def __init__(self, **service):
        self.clock, self.monotonic = Clock(NOON), Clock()
        self.stored = {}  # (account, day): Used
        self.position = 0  # in the journal, of the last answer
        self.has = -1  # up to which the database has it
        self.waiting = []
        self.totals = Totals(self.read, self.clock, self.monotonic)
        self.budgets = Budgets(self.totals, PRICES, "USD", service=Limits(**service), patience=0)

    def read(self, accounts, day, month):
        def within(account, period):
            names = {name for name, _ in self.stored} if account == SERVICE else {account}
            found = [used for (name, at), used in self.stored.items() if name in names and at in period]
            return sum(found, Used())

        return {
            account: Reading(day, month, self.has, within(account, day), within(account, month)) for account in accounts
        }

    def answer(self, account, tokens, cost=0):
        """Count an answer to a request that was judged; the database gets it with `store`."""
        with suppress(RetryLater):
            self.budgets.check(account)
        self.position += 10
        self.waiting.append((self.position, account.id, day_of(self.clock()).start, tokens, cost))
        self.budgets.count(account.id, self.position, tokens, cost)

    def store(self, how_many=None):
        """Put the oldest answers into the database."""
        how_many = len(self.waiting) if how_many is None else how_many
        for position, account, day, tokens, cost in self.waiting[:how_many]:
            self.stored.setdefault((account, day), Used()).add(tokens, cost)
            self.has = position
        del self.waiting[:how_many]

    def elsewhere(self, account, tokens, cost=0):
        """Have another copy answer."""
        self.stored.setdefault((account.id, day_of(self.clock()).start), Used()).add(tokens, cost)


@pytest.fixture
def shop():
    return Shop()


def holder(name="key:a", **limits):
    return Account(name, name, Limits(**limits))


def admit(shop, account, prompt=10, answer=10):
    """Admit a request of one answer, whose prompt is tokenized at once."""
    reservation = shop.budgets.admit(account, MODEL, {0: (prompt + answer, answer)})
    reservation.narrow(0, prompt, answer)
    return reservation


def test_a_spent_budget_is_refused_until_it_renews(shop):
    """Retry-After is the end of the day or the month in UTC, the message names it, and what is over counts no more."""
    account = holder(tokens_per_day=100)
    shop.answer(account, 100)
    with pytest.raises(BudgetExceeded) as refused:
        shop.budgets.check(account)
    assert refused.value.message == "Budget exceeded: 100 tokens per day. It renews at 2026-04-02T00:00:00Z."
    assert (refused.value.retry_after, refused.value.limit) == (DAY // 2, "tokens_per_day")
    shop.clock.now = NOON + DAY // 2
    shop.budgets.check(account)


@pytest.mark.parametrize(
    ("limit", "amount", "message"),
    [
        ("tokens_per_day", 5, "Budget exceeded: 5 tokens per day. It renews at 2026-04-02T00:00:00Z."),
        ("tokens_per_month", 5, "Budget exceeded: 5 tokens per month. It renews at 2026-05-01T00:00:00Z."),
        ("money_per_day", 7, "Budget exceeded: 0.000007 USD per day. It renews at 2026-04-02T00:00:00Z."),
        ("money_per_month", 7, "Budget exceeded: 0.000007 USD per month. It renews at 2026-05-01T00:00:00Z."),
    ],
)
def test_each_budget_is_held(shop, limit, amount, message):
    """One less than the budget is admitted, the budget itself is not."""
    account = holder(**{limit: amount})
    shop.answer(account, 4, 6)
    shop.budgets.check(account)
    shop.answer(account, 1, 1)
    with pytest.raises(BudgetExceeded) as refused:
        shop.budgets.check(account)
    assert refused.value.message == message


def test_the_refusal_that_lasts_longest_is_told(shop):
    """A client that is told to come back tomorrow would be refused again for the month."""
    account = holder(tokens_per_day=5, tokens_per_month=5)
    shop.answer(account, 5)
    with pytest.raises(BudgetExceeded) as refused:
        shop.budgets.check(account)
    assert refused.value.limit == "tokens_per_month"


def test_a_budget_of_nothing_refuses_at_once(shop):
    """Zero tokens are none, and not an unlimited number."""
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(holder(tokens_per_day=0))


def test_accounts_are_apart_and_the_service_is_their_sum():
    """One account's use takes nothing of another's, and everything of the service's, whose amount is told nobody."""
    shop = Shop(money_per_day=10)
    spender, saver = holder("key:a", money_per_day=9), holder("key:b", money_per_day=9)
    shop.answer(spender, 1, 9)
    shop.budgets.check(saver)
    shop.answer(saver, 1, 1)
    with pytest.raises(BudgetExceeded) as refused:
        shop.budgets.check(saver)
    assert refused.value.message == "The service's budget is spent. It renews at 2026-04-02T00:00:00Z."
    with pytest.raises(BudgetExceeded, match="0.000009 USD per day"):
        shop.budgets.check(spender)


def test_what_requests_in_flight_may_use_is_held_back(shop):
    """The next request waits for them to end; then what they did not use is there again."""
    account = holder(tokens_per_day=100)
    first = admit(shop, account, 60, 40)
    shop.budgets.check(account)
    with pytest.raises(HeldBack) as refused:
        admit(shop, account)
    assert (refused.value.retry_after, refused.value.limit) == (1, "tokens_per_day")
    first.narrow(0, 20, 40)
    admit(shop, account, 10, 10).release()
    shop.answer(account, 30)
    first.release()
    first.release()
    (standing,) = shop.budgets.standings(account)
    assert (standing.used, standing.held, standing.remaining) == (30, 0, 70)


def test_what_all_requests_in_flight_may_use_is_held_back_from_the_service():
    """Another account waits for them as well, though it has used nothing and has no limit of its own."""
    shop = Shop(tokens_per_day=100)
    first = admit(shop, holder("key:a"), 60, 40)
    with pytest.raises(HeldBack) as refused:
        admit(shop, holder("key:b"), 1, 1)
    assert refused.value.limit == "service_tokens_per_day"
    first.release()
    admit(shop, holder("key:b"), 1, 1).release()


def test_an_admission_waits_for_the_size_of_prompts_that_are_tokenized(shop):
    """Requests that come together do not refuse each other for the contexts that none of them takes."""
    account = holder(tokens_per_day=1000)
    budgets = Budgets(shop.totals, PRICES, patience=60)
    first = budgets.admit(account, MODEL, {0: (4096, 100)})
    tokenized = threading.Timer(0.05, first.narrow, (0, 20, 100))
    tokenized.start()
    second = budgets.admit(account, MODEL, {0: (4096, 100)})
    (standing,) = budgets.standings(account)
    assert standing.held == 120 + 4096
    for reservation in (first, second):
        reservation.release()


def test_a_context_costs_at_most_what_its_dearest_tokens_do(shop):
    """Before a prompt is tokenized, no split of the context into prompt and answer costs more than what is held."""
    account = holder(money_per_day=10**9)
    reservation = shop.budgets.admit(account, MODEL, {0: (1000, 400), 7: (1000, 4000)})
    (standing,) = shop.budgets.standings(account)
    assert standing.held == (600 + 2 * 400) + 2 * 1000
    reservation.drop(7)
    assert shop.budgets.standings(account)[0].held == 1400
    reservation.release()
    assert shop.budgets.standings(account)[0].held == 0


def test_an_account_has_so_many_requests_in_flight(shop):
    """Another one is refused while they run, whatever they use."""
    account = holder(concurrent_requests=2)
    running = [admit(shop, account) for _ in range(2)]
    with pytest.raises(LimitReached, match="Rate limit exceeded: 2 concurrent requests"):
        shop.budgets.check(account)
    running[0].release()
    admit(shop, account)


def test_tokens_of_a_minute_return_one_by_one(shop):
    """The window moves, and Retry-After is when the next request is admitted, neither earlier nor much later."""
    account = holder(tokens_per_minute=100)
    shop.answer(account, 60)
    shop.monotonic.advance(20)
    shop.answer(account, 40)
    with pytest.raises(LimitReached, match="Rate limit exceeded: 100 tokens per minute") as refused:
        shop.budgets.check(account)
    assert 40 <= refused.value.retry_after <= 41
    shop.monotonic.advance(refused.value.retry_after - 2)
    with pytest.raises(LimitReached):
        shop.budgets.check(account)
    shop.monotonic.advance(2)
    shop.budgets.check(account)


@pytest.mark.parametrize("fraction", [0, 0.25, 0.999])
def test_the_minute_of_an_answer_is_a_whole_one(shop, fraction):
    """Wherever in a second it ended: it counts for 60 seconds, and for one more at most."""
    account = holder(tokens_per_minute=10)
    shop.monotonic.advance(fraction)
    shop.answer(account, 10)
    shop.monotonic.advance(59.9)
    with pytest.raises(LimitReached):
        shop.budgets.check(account)
    shop.monotonic.advance(1.1)
    shop.budgets.check(account)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_answer_that_the_database_was_read_with_counts_once(sign):
    """Though it is counted here only after that; by its position in the journal, or in memory."""
    day, month, ledger = day_of(NOON), month_of(NOON), Ledger(0.0)
    ledger.merge(Reading(day, month, 10, Used(5, 5), Used(5, 5), of_memory=10))
    ledger.add(sign * 10, NOON, 5, 5)
    assert (ledger.used_in(day), ledger.used_in(month)) == (Used(5, 5), Used(5, 5))
    ledger.add(sign * 20, NOON, 7, 7)
    assert (ledger.used_in(day), ledger.used_in(month)) == (Used(12, 12), Used(12, 12))


def test_a_clock_that_is_set_does_not_move_the_minute(shop):
    """Minutes are counted on a clock that cannot be set; days are those of the calendar, in both directions."""
    account = holder(tokens_per_minute=10, tokens_per_day=50)
    shop.answer(account, 10)
    shop.clock.advance(3600)
    with pytest.raises(LimitReached):
        shop.budgets.check(account)
    shop.monotonic.advance(61)
    shop.clock.advance(DAY)
    shop.answer(account, 50)
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(account)
    shop.clock.advance(-DAY)
    shop.monotonic.advance(61)
    shop.budgets.check(account)
    assert shop.budgets.standings(account)[0].used == 10


def test_a_changed_limit_holds_for_the_next_request(shop):
    """What was used under the old limit counts under the new one."""
    shop.answer(holder(tokens_per_day=100), 0)
    shop.answer(holder(tokens_per_day=100), 50)
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(holder(tokens_per_day=50))
    shop.budgets.check(holder(tokens_per_day=51))


def test_defaults_are_for_accounts_without_a_limit_of_their_own(shop):
    """A limit of its own counts instead of the default, larger or smaller."""
    budgets = Budgets(shop.totals, PRICES, defaults=Limits(tokens_per_day=10))
    mine, default = holder("key:a", tokens_per_day=1000), holder("192.0.2.1")
    for account in (mine, default):
        budgets.check(account)
        budgets.count(account.id, 1, 10, 0)
    budgets.check(mine)
    with pytest.raises(BudgetExceeded):
        budgets.check(default)


def test_the_database_is_merged_exactly(shop):
    """An answer counts once whether the database has it or not, and what other copies answered is added."""
    account = holder(tokens_per_day=1000)
    shop.budgets.check(account)
    for tokens in (1, 2, 4):
        shop.answer(account, tokens)
    for stored in (0, 1, 2):
        shop.store(stored)
        shop.totals.read()
        assert shop.budgets.standings(account)[0].used == 7
    shop.elsewhere(account, 100)
    shop.totals.read()
    assert shop.budgets.standings(account)[0].used == 107


@pytest.mark.parametrize("with_journal", [True, False])
def test_what_no_journal_took_counts_until_the_database_has_it(database, tmp_path, new_record, with_journal):
    """On a full disk a budget bounds as much as ever, whatever the database has of the journal."""
    full = [False]

    def write(file, data):
        if full[0]:
            raise OSError(28, "no space left")
        return os.write(file, data)

    recorder = Recorder(database.engine, tmp_path)
    recorder._journal = Journal(tmp_path / "usage", write=write) if with_journal else None
    totals = Totals(DatabaseTotals(database.engine, lambda: recorder.journals), clock=lambda: NOON)
    budgets, account = Budgets(totals, Prices(None), patience=0), holder(tokens_per_day=1000)

    def answer():
        budgets.check(account)
        budgets.count(account.id, recorder.record(new_record(account=account.id, at=NOON)), 12, 0)

    answer()
    recorder.catch_up()
    totals.read()
    full[0] = True
    for number in range(2, 6):
        answer()
        totals.read()
        assert budgets.standings(account)[0].used == 12 * number
    recorder.catch_up()
    assert budgets.standings(account)[0].used == 60
    totals.read()
    assert budgets.standings(account)[0].used == 60
    assert not totals._ledgers[account.id]._entries


def test_a_restart_forgets_nothing(shop):
    """A new process refuses what the old one would, from the database alone."""
    account = holder(tokens_per_month=50)
    shop.clock.now -= DAY * 0.25
    shop.elsewhere(account, 50)
    shop.budgets.check(account)
    shop.totals.read()
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(account)


def test_an_account_that_is_asked_for_first_waits_for_the_database(shop):
    """Its first request is judged by what the database has, however soon after the start it comes."""
    account = holder(tokens_per_day=50)
    shop.elsewhere(account, 50)
    shop.totals.start()
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(account)


def test_a_database_that_is_away_stops_no_request(shop, caplog):
    """Budgets go by what this process knows; the log says it once, and what was counted meanwhile counts afterwards."""
    account = holder(tokens_per_day=50)
    reader, shop.totals._reader = shop.totals._reader, lambda *_: 1 / 0
    shop.totals.start()
    shop.budgets.check(account)
    shop.totals.read()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert shop.totals.failing
    shop.answer(account, 50)
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(account)
    shop.totals._reader = reader
    shop.store()
    shop.totals.read()
    assert not shop.totals.failing
    assert shop.budgets.standings(account)[0].used == 50


def test_what_fails_after_a_reading_does_not_end_the_thread(shop, caplog):
    """The log says it, and the database is read on: here for an account that is asked for first."""
    called = threading.Event()

    def fail():
        called.set()
        raise ZeroDivisionError

    account = holder(tokens_per_day=50)
    shop.elsewhere(account, 50)
    shop.totals.start(fail)
    assert called.wait(60)
    with pytest.raises(BudgetExceeded):
        shop.budgets.check(account)
    assert "ZeroDivisionError" in caplog.text


def test_accounts_that_are_not_in_use_are_forgotten(shop):
    """Memory is bounded by who asked in the last minute; what is in flight or not stored yet is kept."""
    accounts = [holder(f"key:{number}", tokens_per_day=9) for number in range(3)]
    for account in accounts:
        shop.budgets.check(account)
    reservation = admit(shop, accounts[0])
    shop.answer(accounts[1], 5)
    shop.monotonic.advance(200)
    shop.totals.read()
    assert set(shop.totals._ledgers) == {"key:0", "key:1"}
    reservation.release()
    shop.store()
    shop.totals.read()
    shop.monotonic.advance(200)
    shop.totals.read()
    assert shop.totals._ledgers == {}


def test_an_account_without_limits_leaves_no_trace(shop):
    """Nothing is kept of it, and nothing is read for it."""
    account = holder(requests_per_minute=5)
    shop.budgets.check(account)
    reservation = admit(shop, account)
    shop.answer(account, 10)
    reservation.release()
    assert shop.totals._ledgers == {}


def test_many_answers_without_a_database_stay_within_bounds(shop):
    """While the database is away, old answers are joined; their sum stays right, and is right when it is back."""
    account = holder(tokens_per_day=10**9)
    shop.budgets.check(account)
    for _ in range(5000):
        shop.answer(account, 1)
    (ledger,) = shop.totals._ledgers.values()
    assert len(ledger._entries) <= 2001
    assert shop.budgets.standings(account)[0].used == 5000
    shop.store()
    shop.totals.read()
    assert shop.budgets.standings(account)[0].used == 5000
    assert not ledger._entries


def test_joined_answers_count_until_the_database_has_them_wherever_they_wait():
    """In the journal or in memory: each kind goes by its own position."""
    today, month = day_of(NOON), month_of(NOON)
    ledger = Ledger(0.0)
    for number in range(1, 1501):
        ledger.add(10 * number, NOON, 1, 0)
        ledger.add(-number, NOON, 1, 0)
    for position, of_memory, left in ((0, 0, 3000), (15_000, 0, 1500), (15_000, 1500, 0)):
        ledger.merge(Reading(today, month, position, Used(), Used(), of_memory))
        assert ledger.used_in(today).tokens == left
    assert not ledger._entries


def test_requests_that_come_together_overspend_by_one_at_most():
    """However many threads ask at once, what all of them may use is below the budget before the last one."""
    shop, most = Shop(money_per_day=10_000), 300
    account = holder(tokens_per_day=1000)
    refused, admitted, barrier = [], [], threading.Barrier(16)

    def ask():
        barrier.wait()
        for _ in range(20):
            try:
                admitted.append(admit(shop, account, most - 100, 100))
            except HeldBack as error:
                refused.append(error)

    together(*[ask] * 16)
    assert len(admitted) == 4  # three are below the budget, the fourth exceeds it
    assert len(refused) == 16 * 20 - 4
    for reservation in admitted:
        reservation.release()
    assert {(ledger.held.tokens, ledger.held.cost, ledger.running) for ledger in shop.totals._ledgers.values()} == {
        (0, 0, 0)
    }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 2), st.integers(0, 50)),
        st.tuples(st.just("elsewhere"), st.integers(0, 2), st.integers(0, 50)),
        st.tuples(st.just("store"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 2 * DAY), st.just(0)),
    ),
    max_size=30,
)


@CALM
@given(STEPS)
def test_sums_agree_after_whatever_happened(steps):
    """Once the database is read, every total of a day and a month is the sum of all answers of all copies in it."""
    shop = Shop(money_per_month=10**12)
    accounts = [holder(f"key:{number}", tokens_per_day=10**9, money_per_month=10**9) for number in range(3)]
    answers = []
    for account in accounts:
        shop.budgets.check(account)
    for kind, which, amount in steps:
        if kind == "store":
            shop.store(which)
        elif kind == "wait":
            shop.clock.advance(which)
        else:
            answers.append((accounts[which].id, shop.clock(), amount, 2 * amount))
            getattr(shop, kind)(accounts[which], amount, 2 * amount)
    shop.totals.read()
    day, month = day_of(shop.clock()), month_of(shop.clock())
    for account in accounts:
        tokens, money = shop.budgets.standings(account)
        assert tokens.used == sum(t for name, at, t, _ in answers if name == account.id and at in day)
        assert money.used == sum(c for name, at, _, c in answers if name == account.id and at in month)
    with shop.budgets.ledgers_of(accounts[0]) as (_, service):
        assert service.used_in(month).cost == sum(c for _, at, _, c in answers if at in month)


def test_a_request_counts_as_one_in_flight_before_it_waits_for_room(shop, monkeypatch):
    """Others are judged meanwhile. One that gets no room counts no longer."""
    account, seen = holder(concurrent_requests=2, tokens_per_minute=1000), []

    def hold(_, ledgers, sizes):
        seen.append(ledgers[0].running)
        if len(seen) == 2:
            raise HeldBack("There is no room.", 1, "tokens_per_minute")

    monkeypatch.setattr(Reservation, "hold_here", hold)
    first = shop.budgets.admit(account, MODEL, {})
    with pytest.raises(HeldBack):
        shop.budgets.admit(account, MODEL, {})
    shop.budgets.admit(account, MODEL, {})
    with pytest.raises(LimitReached):
        shop.budgets.admit(account, MODEL, {})
    assert seen == [1, 2, 2]
    first.release()
