"""A database of usage, and what is recorded into it."""

from __future__ import annotations

import pytest

from database.connect import Database, migrate, open_database, sqlite_url
from usage.record import UsageRecord

NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC


@pytest.fixture
def database(tmp_path):
    """A database of its own, opened by its first use."""
    database = Database(sqlite_url(tmp_path / "avito-ai.db"))
    yield database
    database.engine().dispose()


@pytest.fixture
def engine(tmp_path):
    """The same with its tables, opened at once."""
    engine = open_database(sqlite_url(tmp_path / "test.db"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def new_record():
    """Return a function that makes records; each has an id of its own."""
    made = iter(range(1_000_000))

    def make(**fields):
        values = {"at": NOON, "account": "192.0.2.1", "model": "avibe", "protocol": "api", "input_tokens": 7}
        return UsageRecord(f"r{next(made)}", **{**values, "output_tokens": 5, "milliseconds": 1000, **fields})

    return make
