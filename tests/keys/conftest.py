"""A registry over a database of its own, with a clock that stands still."""

import time

import pytest

from database.connect import Database, sqlite_url
from keys.registry import Actor, KeyRegistry
from tests.fakes import Clock


@pytest.fixture
def clock():
    """Seconds since the epoch; tokens are verified by the library's own clock, so it begins now."""
    return Clock(float(int(time.time())))


@pytest.fixture
def database(tmp_path):
    return Database(sqlite_url(tmp_path / "avito-ai.db"))


@pytest.fixture
def registry(database, clock):
    return KeyRegistry(database, clock)


@pytest.fixture
def by():
    return Actor("anna", "10.0.0.1")
