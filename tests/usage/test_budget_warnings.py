"""The operator is told of budgets that are nearly spent, and of those that are: each once a period."""

import pytest

from tests.usage.test_budgets import NOON, Shop, holder
from usage.budget_warnings import BudgetWarnings, claim_in
from usage.periods import DAY


class Watched(Shop):
    """A shop whose budgets are watched; `sent` is what the webhook was given."""

    def __init__(self, engine, **service):
        super().__init__(**service)
        self.sent = []
        self.engine = engine
        self.warnings = BudgetWarnings(self.budgets, claim_in(lambda: self.engine, self.clock), self.sent.append)

    def look(self):
        self.store()
        self.totals.read()
        self.warnings.look()
        return [event["event"] for event in self.sent]


@pytest.fixture
def shop(engine):
    return Watched(engine)


def test_a_budget_is_told_when_80_percent_are_used(shop, caplog):
    """Not before, and then once: a log line and an event with what an operator needs to know."""
    account = holder("key:a", money_per_day=1_000_000)
    shop.answer(account, 10, 799_999)
    assert shop.look() == []
    shop.answer(account, 1, 1)
    assert shop.look() == shop.look() == ["budget_warning"]
    text = "key:a has used 0.8 of 1 USD per day; the budget renews at 2026-04-02T00:00:00Z."
    assert shop.sent == [
        {
            "event": "budget_warning",
            "text": text,
            "account": "key:a",
            "name": "key:a",
            "budget": "money_per_day",
            "percent": 80,
            "used": "0.8",
            "amount": "1",
            "unit": "USD",
            "period_start": "2026-04-01T00:00:00Z",
            "renews_at": "2026-04-02T00:00:00Z",
        }
    ]
    assert [record.message for record in caplog.records] == [text]
    assert shop.warnings.states() == {"nearly_spent": 1, "spent": 0}


def test_every_account_is_looked_at(shop):
    """However many there are."""
    for number in range(450):
        shop.answer(holder(f"key:{number}", tokens_per_day=100), 85)
    shop.look()
    assert shop.warnings.states() == {"nearly_spent": 450, "spent": 0}
    assert len(shop.sent) == 450


def test_a_spent_budget_is_told_again(shop):
    """At 80% and at 100%; one that is spent at once is told as spent alone."""
    slow, fast = holder("key:a", tokens_per_day=100), holder("key:b", tokens_per_month=100)
    shop.answer(slow, 90)
    shop.look()
    shop.answer(slow, 10)
    shop.answer(fast, 500)
    shop.look()
    assert [(event["account"], event["percent"]) for event in shop.sent] == [
        ("key:a", 80),
        ("key:a", 100),
        ("key:b", 100),
    ]
    assert shop.warnings.states() == {"nearly_spent": 0, "spent": 2}


def test_each_period_is_told(shop):
    """The next day begins with nothing used."""
    account = holder(tokens_per_day=100)
    for day in range(3):
        shop.clock.now = NOON + day * DAY
        shop.answer(account, 85)
        assert shop.look() == ["budget_warning"] * (day + 1)


def test_another_copy_or_a_restart_tells_nothing_again(engine, shop):
    """A row in the database stands for what was told."""
    account = holder(tokens_per_day=100)
    shop.answer(account, 85)
    shop.look()
    other = Watched(engine)
    other.answer(account, 85)
    assert other.look() == []


def test_while_the_database_is_away_it_waits(shop):
    """Nobody can know whether it was told, so it is told once the database is back."""
    account = holder(tokens_per_day=100)
    shop.answer(account, 85)
    engine, shop.engine = shop.engine, None
    assert shop.look() == []
    shop.engine = engine
    assert shop.look() == ["budget_warning"]


def test_a_database_that_is_away_is_waited_for_once_a_look(shop):
    """However many budgets are to be told: each would have its time-out, and none would be read meanwhile."""
    tries = []

    def claim(warned):
        tries.append(warned)
        raise TimeoutError

    for number in range(5):
        shop.answer(holder(f"key:{number}", tokens_per_day=100), 85)
    shop.warnings = BudgetWarnings(shop.budgets, claim, shop.sent.append)
    for looks in (1, 2):
        assert shop.look() == []
        assert len(tries) == looks
    assert shop.warnings.states() == {"nearly_spent": 5, "spent": 0}


def test_the_service_has_its_own(engine):
    """Its budgets are told as its own, and exported as shares."""
    shop = Watched(engine, money_per_day=1_000_000, money_per_month=4_000_000)
    shop.answer(holder(), 1, 900_000)
    shop.look()
    assert [(event["account"], event["budget"]) for event in shop.sent] == [("service", "money_per_day")]
    assert shop.sent[0]["text"].startswith("The service has used 0.9 of 1 USD per day;")
    assert shop.warnings.shares() == {"day": 0.9, "month": 0.225}
    assert shop.warnings.states() == {"nearly_spent": 0, "spent": 0}


def test_old_rows_are_forgotten(shop, engine):
    """The table stays as small as what two months have told."""
    account = holder(tokens_per_day=100)
    for month in range(6):
        shop.clock.now = NOON + month * 31 * DAY
        shop.answer(account, 85)
        shop.look()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM budget_warnings").scalar() == 2
