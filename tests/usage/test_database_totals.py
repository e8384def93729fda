"""What the database has of accounts, read at one moment with the position of this process's journal."""

from sqlalchemy import insert, update

from database.tables import USAGE_DAYS, USAGE_JOURNALS
from usage.database_totals import DatabaseTotals
from usage.ledger import Used
from usage.periods import DAY, day_of, month_of
from usage.store import OTHERS
from usage.totals import SERVICE

NOON = 1_775_044_800  # 2026-04-01, 12:00 UTC
NOW = NOON + 14 * DAY
TODAY, MONTH = day_of(NOW), month_of(NOW)
REST = {column.name: 0 for column in USAGE_JOURNALS.c if column.name not in ("journal", "offset")}


def put(engine, account, day, model="avibe", **figures):
    with engine.begin() as connection:
        connection.execute(insert(USAGE_DAYS).values(period=day, account=account, model=model, **figures))


def read(engine, *accounts, journal="mine"):
    return DatabaseTotals(lambda: engine, lambda: (journal, "memory"))(accounts, TODAY, MONTH)


def test_days_and_months_are_summed_over_models(engine):
    """Tokens of prompts and answers; what is before the month, or after, counts nowhere."""
    put(engine, "key:a", TODAY.start, input_tokens=10, output_tokens=5, cached_tokens=3, cost=7)
    put(engine, "key:a", TODAY.start, "avision", input_tokens=1, output_tokens=1, cost=1)
    put(engine, "key:a", MONTH.start, input_tokens=100, output_tokens=100, cost=100)
    for outside in (MONTH.start - DAY, MONTH.end):
        put(engine, "key:a", outside, input_tokens=10**6, cost=10**6)
    put(engine, "key:b", TODAY.start, input_tokens=1000, cost=1000)
    found = read(engine, "key:a", "key:c", SERVICE)
    assert (found["key:a"].of_day, found["key:a"].of_month) == (Used(17, 8), Used(217, 108))
    assert (found["key:c"].of_day, found["key:c"].of_month) == (Used(), Used())
    assert (found[SERVICE].of_day, found[SERVICE].of_month) == (Used(1017, 1008), Used(1217, 1108))


def test_the_position_is_that_of_this_processs_journal(engine):
    """-1 before the database has any of it."""
    with engine.begin() as connection:
        connection.execute(insert(USAGE_JOURNALS).values(journal="other", offset=70, **REST))
    assert read(engine, "key:a")["key:a"].position == -1
    assert read(engine, "key:a", journal="other")["key:a"].position == 70


def test_figures_and_position_are_of_one_moment(engine):
    """What is committed while the database is read is in both, or in none."""
    put(engine, "key:a", TODAY.start, input_tokens=1)
    with engine.begin() as connection:
        connection.execute(insert(USAGE_JOURNALS).values(journal="mine", offset=1, **REST))

    def journal():
        with engine.begin() as connection:
            connection.execute(update(USAGE_JOURNALS).values(offset=2))
            connection.execute(update(USAGE_DAYS).values(input_tokens=2))
        return "mine", "memory"

    found = DatabaseTotals(lambda: engine, journal)(["key:a"], TODAY, MONTH)["key:a"]
    assert found.position == found.of_day.tokens


def test_many_accounts_are_read_at_once(engine):
    """More than a statement takes."""
    names = [f"key:{number}" for number in range(1201)]
    for name in names[::400]:
        put(engine, name, TODAY.start, output_tokens=4)
    found = read(engine, *names)
    assert [name for name in names if found[name].of_day.tokens == 4] == names[::400]


def test_an_account_is_found_under_the_name_that_the_database_holds(engine):
    """Names longer than a column are cut as they are when usage is stored."""
    from database.strings import fitted

    name = "jwt:" + "x" * 300
    put(engine, fitted(name, USAGE_DAYS.c.account), TODAY.start, output_tokens=4)
    assert read(engine, name)[name].of_day.tokens == 4


def test_an_account_is_apart_that_has_a_row_of_the_day(engine):
    """Of an address that came too late in a day there is none, whatever there is of its earlier days."""
    put(engine, "192.0.2.1", TODAY.start)
    put(engine, "192.0.2.2", MONTH.start, output_tokens=4)
    put(engine, OTHERS, TODAY.start, output_tokens=4)
    found = read(engine, "192.0.2.1", "192.0.2.2", "192.0.2.3", SERVICE)
    assert [one.apart for one in found.values()] == [True, False, False, True]
    assert found["192.0.2.2"].of_month == Used(4, 0)
