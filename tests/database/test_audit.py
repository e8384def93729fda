"""The audit trail keeps who did what, in order, and takes whatever is written."""

from __future__ import annotations

import pytest

from database.audit import acts, forget, record
from database.connect import migrate, open_database, sqlite_url


@pytest.fixture
def engine(tmp_path):
    """A new database with its tables."""
    engine = open_database(sqlite_url(tmp_path / "avito-ai.db"))
    migrate(engine)
    return engine


def test_an_act_is_read_as_it_was_written(engine):
    """Actor, address, action, target and details come back, with the second of the act."""
    record(engine, "admin", "192.0.2.7", "key.create", "key:abc", {"name": "Office"}, clock=lambda: 12.9)
    (act,) = acts(engine)
    assert (act.at, act.actor, act.address) == (12, "admin", "192.0.2.7")
    assert (act.action, act.target) == ("key.create", "key:abc")
    assert act.details == {"name": "Office"}


def test_the_newest_acts_come_first_by_the_page(engine):
    """A page ends where the next one begins."""
    for number in range(5):
        record(engine, "admin", "", "key.disable", str(number))
    first = acts(engine, limit=2)
    assert [act.target for act in first] == ["4", "3"]
    assert [act.target for act in acts(engine, before=first[-1].id, limit=2)] == ["2", "1"]


def test_an_act_belongs_to_the_transaction_of_the_change(engine):
    """What is rolled back was never done."""
    with engine.connect() as connection:
        record(connection, "admin", "", "key.create")
        connection.rollback()
    assert acts(engine) == []


def test_any_text_can_be_written(engine):
    """A text that is too long is cut, and one that no database takes is replaced."""
    record(engine, "a" * 1000, "b" * 1000, "c" * 1000, "d\0\ud800" + "e" * 1000, {"note": "\0\ud800"})
    (act,) = acts(engine)
    assert (len(act.actor), len(act.address), len(act.action), len(act.target)) == (128, 64, 32, 128)
    assert act.target.startswith("d\ufffd?e")


def test_old_acts_are_forgotten(engine):
    """Acts from before a second go, later ones stay."""
    for second in (10, 20, 30):
        record(engine, "admin", "", "reset", clock=lambda second=second: float(second))
    assert forget(engine, before=20) == 1
    assert [act.at for act in acts(engine)] == [30, 20]
