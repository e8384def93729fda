"""How what is to be added reaches the database."""

from sqlalchemy import select

from database.tables import FIGURES, USAGE_ACCOUNTS, USAGE_DAYS
from usage import store
from usage.sums import Sums


def sums(accounts, at=1):
    """Return one of each figure for so many accounts, with their names at a moment."""
    rows = {(0, f"key:{number}", "avibe"): (1,) * len(FIGURES) for number in range(accounts)}
    names = {account: (f"name {at}", at) for _, account, _ in rows}
    return Sums(
        dict(rows), dict(rows), {(0, account, "user"): figures for (_, account, _), figures in rows.items()}, names
    )


def test_a_pass_compiles_no_statement_for_a_number_of_rows(engine):
    """Compiling takes milliseconds in which a model of this process gets no further."""
    sizes = []
    for passes, accounts in enumerate((2, 7, 120)):
        assert store.add(engine, "mine", passes, passes + 1, sums(accounts))
        sizes.append(len(engine._compiled_cache))
    assert sizes == [sizes[0]] * 3


def test_sums_add_up_and_a_name_that_is_new_takes_the_place_of_the_old_one(engine):
    """Rows that are new stand beside those that grow."""
    for position, (accounts, at) in enumerate(((1, 5), (3, 9), (2, 7))):
        store.add(engine, "mine", position, position + 1, sums(accounts, at))
    with engine.connect() as connection:
        counted = dict(connection.execute(select(USAGE_DAYS.c.account, USAGE_DAYS.c[FIGURES[0]])).all())
        names = dict(connection.execute(select(USAGE_ACCOUNTS.c.account, USAGE_ACCOUNTS.c.name)).all())
    assert counted == {"key:0": 3, "key:1": 2, "key:2": 1}
    assert names == {"key:0": "name 7", "key:1": "name 7", "key:2": "name 9"}
