"""The figures of the operator's page of usage: by period and model, of one account or model, and who used most."""

import calendar

import pytest

from usage.charts import SPANS, Choice, charted
from usage.record import UsageRecord
from usage.store import add
from usage.sums import summed

NOW = calendar.timegm((2026, 3, 15, 12, 30, 0))
HOUR, DAY = 3600, 86_400


@pytest.fixture
def engine(database):
    return database.engine()


@pytest.fixture
def used(engine):
    """Return a function that records a request of an account, so many seconds ago."""
    position = [0]

    def record(ago, account="key:a", model="avibe", tokens=10, **fields):
        one = UsageRecord("id", NOW - ago, account, model, "api", output_tokens=tokens, **fields)
        assert add(engine, "journal", position[0], position[0] + 1, summed([one]))
        position[0] += 1

    return record


def line(engine, span, **choice):
    """Return the tokens of each period of Avibe."""
    found = charted(engine, Choice(SPANS[span], **choice), NOW)
    return [sums["output_tokens"] for sums in found.by_model["avibe"]]


@pytest.mark.parametrize(("span", "periods"), [("day", 24), ("week", 168), ("month", 31), ("year", 12)])
def test_every_span_has_all_its_periods_up_to_now(engine, used, span, periods):
    """Those without usage too; the last one is going on, and what is older is left out."""
    used(0)
    used(400 * DAY, tokens=1000)
    assert line(engine, span) == [0] * (periods - 1) + [10]


def test_usage_is_in_its_period(engine, used):
    """By hour, by day and by month, whose lengths differ; sums are of all models."""
    for ago in (0, 29 * 60, 31 * 60, HOUR + 31 * 60):
        used(ago)
    used(DAY, model="avision")
    assert line(engine, "day")[-3:] == [10, 10, 20]
    assert line(engine, "month")[-1] == 40
    used(20 * DAY)
    assert line(engine, "year")[-2:] == [10, 40]
    found = charted(engine, Choice(SPANS["month"]), NOW)
    assert (found.total["requests"], found.total["output_tokens"]) == (6, 60)
    assert set(found.by_model) == {"avibe", "avision"}


def test_one_account_or_model_can_be_looked_at(engine, used):
    """Others are in no figure then."""
    used(0)
    used(0, "key:b", tokens=5)
    used(0, "key:b", "avision", tokens=7)
    assert charted(engine, Choice(SPANS["day"], account="key:b"), NOW).total["output_tokens"] == 12
    assert charted(engine, Choice(SPANS["day"], "key:b", "avibe"), NOW).total["output_tokens"] == 5
    assert charted(engine, Choice(SPANS["day"], account="key:x"), NOW).by_model == {}


def test_accounts_come_by_their_tokens_and_no_more_than_asked_for(engine, used):
    """Each with its last name; the totals have all of them."""
    for number in range(8):
        used(0, f"key:{number}", tokens=number, name=f"name {number}")
    found = charted(engine, Choice(SPANS["month"]), NOW, number=3)
    assert [(one, name) for one, name, _ in found.accounts] == [(f"key:{n}", f"name {n}") for n in (7, 6, 5)]
    assert found.total["requests"] == 8
