"""Adds sums to the database, each journal's exactly once, and forgets what is old.

The position of a journal is written in the transaction that adds what stands before it; a transaction that does not
find the position it starts from adds nothing. Who is counted apart is bounded: what a client chooses makes only so many
rows a period. What is joined is told apart by nothing here: what budgets need of it, `usage.ledger` keeps.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import add as plus
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from database import audit
from database.connect import patient
from database.tables import FIGURES, USAGE_ACCOUNTS, USAGE_DAYS, USAGE_HOURS, USAGE_JOURNALS, USAGE_USERS
from usage.periods import DAY
from usage.sums import Figures, Key, Sums

# Of addresses, of which a client may have many; the accounts that are NAMED are always counted apart.
ADDRESSES_A_DAY = 10_000
USERS_A_DAY = 1_000  # of each account
OTHERS = "(others)"
NAMED = ("key:", "jwt:")
FORGET_SECONDS = 300.0  # for one statement that deletes
AT_ONCE = 400  # values in one statement
ROWS_AT_ONCE = 1000  # in one exchange with the database, which is bounded in time


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many addresses, and users of an account, are counted apart a day."""

    addresses: int = ADDRESSES_A_DAY
    users: int = USERS_A_DAY


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days what is kept: usage by day and user, usage by hour, and the audit trail."""

    days: int = 400
    hour_days: int = 31
    audit_days: int = 400


RETENTION = Retention()


def position_of(engine: Engine, journal: str) -> int:
    """Return how far the database has a journal, in bytes. Raises SQLAlchemyError."""
    query = select(USAGE_JOURNALS.c.offset).where(USAGE_JOURNALS.c.journal == journal)
    with engine.connect() as connection:
        return int(connection.execute(query).scalar() or 0)


def add(engine: Engine, journal: str, before: int, after: int, sums: Sums, bounds: Bounds = BOUNDS) -> bool:
    """Add what stands in a journal between two positions; return False where the database is not at the first one.

    Raises SQLAlchemyError; then it is unknown whether it was added, and `position_of` tells.
    """
    with engine.begin() as connection:
        if not _move(connection, journal, before, after):
            return False
        sums = _bounded(connection, sums, bounds)
        for table, rows in ((USAGE_HOURS, sums.hours), (USAGE_DAYS, sums.days), (USAGE_USERS, sums.users)):
            _add_rows(connection, table, rows)
        _name(connection, sums.names)
    return True


def forget_journal(engine: Engine, journal: str) -> None:
    """Forget the position of a journal that is no more. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        connection.execute(delete(USAGE_JOURNALS).where(USAGE_JOURNALS.c.journal == journal))


def forget(engine: Engine, now: float, kept: Retention) -> None:
    """Delete what is older than it is to be kept. now: seconds since the epoch. Raises SQLAlchemyError."""
    oldest, oldest_hour, oldest_act = (int(now) - days * DAY for days in (kept.days, kept.hour_days, kept.audit_days))
    with engine.begin() as connection, patient(connection, FORGET_SECONDS):
        audit.forget(connection, oldest_act)
        connection.execute(delete(USAGE_HOURS).where(USAGE_HOURS.c.period < oldest_hour))
        for table in (USAGE_DAYS, USAGE_USERS):
            connection.execute(delete(table).where(table.c.period < oldest))
        for table in (USAGE_ACCOUNTS, USAGE_JOURNALS):
            connection.execute(delete(table).where(table.c.at < oldest))


def _move(connection: Connection, journal: str, before: int, after: int) -> bool:
    row = {"journal": journal, "offset": before, "at": 0}
    connection.execute(_insert(connection)(USAGE_JOURNALS).values(row).on_conflict_do_nothing())
    here = (USAGE_JOURNALS.c.journal == journal) & (USAGE_JOURNALS.c.offset == before)
    moved = connection.execute(update(USAGE_JOURNALS).where(here).values(offset=after, at=int(time.time())))
    return moved.rowcount == 1


def _add_rows(connection: Connection, table: Table, rows: Mapping[Key, Figures]) -> None:
    names = [*(column.name for column in table.primary_key), *FIGURES]
    # In the order of their keys, in which all copies lock rows.
    values = [dict(zip(names, (*key, *figures), strict=True)) for key, figures in sorted(rows.items())]
    for part in _parts(values, ROWS_AT_ONCE):
        connection.execute(_summing(_insert(connection), table), part)


def _name(connection: Connection, names: Mapping[str, tuple[str, int]]) -> None:
    values = [{"account": account, "name": name, "at": at} for account, (name, at) in sorted(names.items())]
    for part in _parts(values, ROWS_AT_ONCE):
        connection.execute(_naming(_insert(connection)), part)


def _bounded(connection: Connection, sums: Sums, bounds: Bounds) -> Sums:
    """Return the sums with those who come too late in a period under one name."""
    late = _too_many_addresses(connection, USAGE_DAYS, sums.days, bounds.addresses)
    days, users = _joined(sums.days, 1, late), _joined(sums.users, 1, late)
    hours = _joined(sums.hours, 1, _too_many_addresses(connection, USAGE_HOURS, sums.hours, bounds.addresses))
    users = _joined(users, 2, _too_many_users(connection, users, bounds.users))
    return Sums(hours, days, users, sums.names, sums.records)


def _joined(rows: Mapping[Key, Figures], part: int, late: Collection[Key]) -> dict[Key, Figures]:
    """Add up those rows whose key starts as one of `late` does. part: of the key, which OTHERS then is."""
    joined: dict[Key, Figures] = {}
    for key, figures in rows.items():
        if key[: part + 1] in late:
            key = (key[0], OTHERS, key[2]) if part == 1 else (key[0], key[1], OTHERS)
        joined[key] = tuple(map(plus, joined[key], figures)) if key in joined else figures
    return joined


def _too_many_addresses(connection: Connection, table: Table, rows: Mapping[Key, Figures], most: int) -> set[Any]:
    """Return the first two parts of keys of addresses for which a period has no room."""
    asked: dict[int, set[str]] = {}
    for period, account, _ in rows:
        if not account.startswith(NAMED):
            asked.setdefault(period, set()).add(account)
    late = set()
    for period, accounts in asked.items():
        here = table.c.period == period
        new = accounts - _known(connection, table, here, "account", accounts)
        if new:
            named = or_(*(table.c.account.startswith(prefix) for prefix in NAMED))
            count = select(func.count(table.c.account.distinct())).where(here, ~named, table.c.account != OTHERS)
            room = max(0, most - int(connection.execute(count).scalar_one()))
            late |= {(period, account) for account in sorted(new)[room:]}
    return late


def _too_many_users(connection: Connection, rows: Mapping[Key, Figures], most: int) -> set[Any]:
    """Return the keys of users for which an account has no room on a day."""
    asked: dict[tuple[int, str], set[str]] = {}
    for period, account, user in rows:
        asked.setdefault((period, account), set()).add(user)
    late = set()
    for (period, account), users in asked.items():
        here = (USAGE_USERS.c.period == period) & (USAGE_USERS.c.account == account)
        new = users - _known(connection, USAGE_USERS, here, "user", users)
        if new:
            count = select(func.count()).select_from(USAGE_USERS).where(here, USAGE_USERS.c.user != OTHERS)
            room = max(0, most - int(connection.execute(count).scalar_one()))
            late |= {(period, account, user) for user in sorted(new)[room:]}
    return late


def _known(connection: Connection, table: Table, here: Any, name: str, values: Iterable[str]) -> set[str]:
    """Return which of these values a column already has there."""
    column, known = table.c[name], set[str]()
    for part in _parts(sorted(values), AT_ONCE):
        known |= {row[0] for row in connection.execute(select(column).distinct().where(here, column.in_(part)))}
    return known


def _parts(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[at : at + size] for at in range(0, len(values), size))


# One statement for any number of rows, so that SQLAlchemy compiles it once: that takes milliseconds.


@cache
def _summing(insert: Any, table: Table) -> Any:
    """Return the statement that adds the figures of a row to those of its key."""
    statement = insert(table)
    sums = {name: table.c[name] + statement.excluded[name] for name in FIGURES}
    return statement.on_conflict_do_update(index_elements=[*table.primary_key], set_=sums)


@cache
def _naming(insert: Any) -> Any:
    """Return the statement that keeps the latest name of an account."""
    statement = insert(USAGE_ACCOUNTS)
    latest = {"name": statement.excluded.name, "at": statement.excluded.at}
    changed = (USAGE_ACCOUNTS.c.name != statement.excluded.name) | (USAGE_ACCOUNTS.c.at < statement.excluded.at)
    return statement.on_conflict_do_update(index_elements=["account"], set_=latest, where=changed)


def _insert(connection: Connection) -> Any:
    """Return the `INSERT` of this kind of database, which can also add to a row that is there."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
