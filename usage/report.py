"""What accounts used, added up as it is asked for: by day or hour, account, model or user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, Select, Table, func, select

from database.strings import fitted
from database.tables import FIGURES, USAGE_ACCOUNTS, USAGE_DAYS, USAGE_HOURS, USAGE_USERS
from usage.periods import DAY
from usage.sums import named

# Kept under their accounts by day, and not by model.
APART = {"user": {"hour", "model"}}
LINES_AT_ONCE = 200  # that are read, and made something of

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. by: of day, hour, account, model and user.

    start, end: seconds since the epoch, the second one exclusive; account, model: only of these; limit, offset: of the
    lines.
    """

    by: tuple[str, ...]
    start: int
    end: int
    account: str | None = None
    model: str | None = None
    limit: int = 1000
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """Sums. parts: of a period (its first second), an account, a model and a user those that were asked for.

    name: of the account, "" where it has none; figures: by FIGURES, money in millionths.
    """

    parts: dict[str, Any]
    name: str
    figures: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report(Generic[Part]):
    """What was made of the lines in their order, whether there are more of them, and the sums of all."""

    lines: Sequence[Part]
    more: bool
    total: dict[str, int]


def contradiction(by: Sequence[str], model: str | None = None) -> str | None:
    """Return two parts of a question that are not kept together, None if there are none."""
    asked = {*by, *(["model"] if model is not None else [])}
    if {"day", "hour"} <= asked:
        return "day and hour"
    others = sorted(APART["user"] & asked) if "user" in asked else []
    return f"user and {others[0]}" if others else None


def report(engine: Engine, question: Question, write: Callable[[list[Line]], Iterable[Part]]) -> Report[Part]:
    """Return the answer to a question that has no contradiction. Raises SQLAlchemyError, and what `write` does.

    write: makes what is kept of some lines; there are never more than LINES_AT_ONCE of them at a time.
    """
    table, parts, left = _table(question.by), list[Part](), question.limit
    with engine.connect() as connection:
        total = connection.execute(_sums(table, question)).one()
        for lines in _lines(connection, table, question) if question.by else ():
            parts += write(lines[:left]) if left else ()
            left -= len(lines)
    return Report(parts, left < 0, named(total))


def _lines(connection: Connection, table: Table, question: Question) -> Iterator[list[Line]]:
    """Yield the lines, and one more where there are more than are asked for, some at a time."""
    rows = connection.execute(_grouped(table, question), execution_options={"yield_per": LINES_AT_ONCE})
    for some in rows.partitions():
        names = _names(connection, {row.account for row in some}) if "account" in question.by else {}
        yield [_line(question.by, tuple(row), names) for row in some]


def _table(by: Sequence[str]) -> Table:
    return USAGE_HOURS if "hour" in by else USAGE_USERS if "user" in by else USAGE_DAYS


def _column(table: Table, part: str) -> Any:
    return table.c["period" if part in ("day", "hour") else part]


def _sums(table: Table, question: Question) -> Select[Any]:
    within = [table.c.period >= question.start, table.c.period < question.end]
    if question.account is not None:
        within.append(table.c.account == fitted(question.account, table.c.account))
    if question.model is not None:
        within.append(table.c.model == fitted(question.model, table.c.model))
    return select(*(func.sum(table.c[name]) for name in FIGURES)).where(*within)


def _grouped(table: Table, question: Question) -> Select[Any]:
    columns = [_column(table, part) for part in question.by]
    sums = _sums(table, question).add_columns(*columns).group_by(*columns).order_by(*columns)
    return sums.limit(question.limit + 1).offset(question.offset)


def _line(by: Sequence[str], row: tuple[Any, ...], names: Mapping[str, str]) -> Line:
    parts = dict(zip(by, row[len(FIGURES) :], strict=True))
    return Line(parts, names.get(parts.get("account", ""), ""), named(row[: len(FIGURES)]))


def _names(connection: Connection, accounts: set[str]) -> dict[str, str]:
    here = USAGE_ACCOUNTS.c.account.in_(sorted(accounts))
    rows = connection.execute(select(USAGE_ACCOUNTS.c.account, USAGE_ACCOUNTS.c.name).where(here))
    return {row.account: row.name for row in rows}


def days_of(month: str) -> tuple[int, int]:
    """Return the first second of a month (`2026-01`) and that of the next one. Raises ValueError."""
    start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return int(start.timestamp()), int(end.timestamp())


def second_of(day: str) -> int:
    """Return the first second of a day (`2026-01-31`). Raises ValueError, also for the last that can be written."""
    start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    if start.date() == date.max:
        raise ValueError("the year 10000 cannot be written")
    return int(start.timestamp()) // DAY * DAY
