"""Reads what the database has of the usage of accounts, at one moment with how far it has this process's journal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Select, case, func, select

from database.strings import fitted
from database.tables import USAGE_DAYS, USAGE_JOURNALS
from usage.ledger import Reading, Used
from usage.periods import Period
from usage.totals import SERVICE

ACCOUNTS_AT_ONCE = 500  # in one statement


class DatabaseTotals:
    """Reads totals of days and months. engine: opens the database.

    journals: the names of this process's own, and of its records that no journal took.
    """

    def __init__(self, engine: Callable[[], Engine], journals: Callable[[], tuple[str, str]]) -> None:
        self._engine, self._journals = engine, journals

    def __call__(self, accounts: Collection[str], day: Period, month: Period) -> Mapping[str, Reading]:
        """Return what the database has of each account. Raises what the database does."""
        with self._engine().connect() as connection:
            _begin_snapshot(connection)
            position, of_memory = _positions(connection, *self._journals())
            stored = {account: fitted(account, USAGE_DAYS.c.account) for account in accounts}
            found = dict(_rows(connection, set(stored.values()), day, month))
            connection.rollback()
        nothing = Used(), Used(), False
        return {
            account: Reading(day, month, position, of_day, of_month, of_memory, apart or account == SERVICE)
            for account, name in stored.items()
            for of_day, of_month, apart in [found.get(name, nothing)]
        }


def _positions(connection: Connection, journal: str, memory: str) -> tuple[int, int]:
    """Return up to where the database has the journal, -1 for nothing of it, and how many records of memory."""
    journals = USAGE_JOURNALS.c
    query = select(journals.journal, journals.offset).where(journals.journal.in_((journal, memory)))
    found = {name: int(offset) for name, offset in connection.execute(query)}
    return found.get(journal, -1), found.get(memory, 0)


def _begin_snapshot(connection: Connection) -> None:
    """Have all statements see the same moment; Python's SQLite driver begins no transaction to read by itself."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    else:
        connection.execution_options(isolation_level="REPEATABLE READ")


def _rows(
    connection: Connection, accounts: Collection[str], day: Period, month: Period
) -> Iterator[tuple[str, tuple[Used, Used, bool]]]:
    """Yield what each account has rows of: of the day, of the month, and whether any is of the day."""
    usage = USAGE_DAYS.c
    names = sorted({*accounts} - {SERVICE})
    sums = _sums(day, month).add_columns(usage.account).group_by(usage.account)
    for at in range(0, len(names), ACCOUNTS_AT_ONCE):
        for *figures, account in connection.execute(sums.where(usage.account.in_(names[at : at + ACCOUNTS_AT_ONCE]))):
            yield account, _used(figures)
    if SERVICE in accounts:
        yield SERVICE, _used(list(connection.execute(_sums(day, month)).one()))


def _sums(day: Period, month: Period) -> Select[Any]:
    usage = USAGE_DAYS.c
    tokens = usage.input_tokens + usage.output_tokens
    today = usage.period == day.start
    of_day = [case((today, figure), else_=0) for figure in (tokens, usage.cost, 1)]
    return select(*(func.sum(figure) for figure in (*of_day, tokens, usage.cost))).where(
        usage.period >= month.start, usage.period < month.end
    )


def _used(figures: list[Any]) -> tuple[Used, Used, bool]:
    """Return the figures as `_rows` does; PostgreSQL's sums are decimals, and there are none of no rows."""
    tokens_of_day, cost_of_day, rows_of_day, tokens_of_month, cost_of_month = (int(figure or 0) for figure in figures)
    return Used(tokens_of_day, cost_of_day), Used(tokens_of_month, cost_of_month), rows_of_day > 0
