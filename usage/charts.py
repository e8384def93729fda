"""Usage as the operator's page shows it: sums by period and model, and of the accounts with most tokens.

What a query returns is bounded by periods, models and `number`, however many accounts there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Table, func, select

from database.strings import fitted
from database.tables import FIGURES, USAGE_ACCOUNTS, USAGE_DAYS, USAGE_HOURS
from usage.periods import day_of, month_of
from usage.sums import HOUR, named

Sums = dict[str, int]  # by the names of FIGURES


@dataclass(frozen=True, slots=True)
class Span:
    """A time up to now, in periods. hourly: from the hours, which are not kept for as long; else from the days.

    start_of: returns the first second of the period of a moment.
    """

    periods: int
    hourly: bool
    start_of: Callable[[int], int]

    def starts(self, now: float) -> list[int]:
        """Return the first seconds of its periods, oldest first; the last one is still going on."""
        found = [self.start_of(int(now))]
        while len(found) < self.periods:
            found.append(self.start_of(found[-1] - 1))
        return found[::-1]


def _hour(moment: int) -> int:
    return moment // HOUR * HOUR


SPANS = {
    "day": Span(24, True, _hour),
    "week": Span(7 * 24, True, _hour),
    "month": Span(31, False, lambda moment: day_of(moment).start),
    "year": Span(12, False, lambda moment: month_of(moment).start),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What is looked at: a span, and of one account or model where these are not ""."""

    span: Span
    account: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Charted:
    """The figures of a choice.

    by_model: for each model its sums of each period in `starts`; accounts: id, last name ("" for an address) and sums,
    most tokens first.
    """

    starts: list[int]
    by_model: dict[str, list[Sums]]
    accounts: list[tuple[str, str, Sums]]
    total: Sums


def charted(engine: Engine, choice: Choice, now: float, number: int = 50) -> Charted:
    """Return the figures of a choice. number: of accounts. Raises SQLAlchemyError."""
    table, starts = USAGE_HOURS if choice.span.hourly else USAGE_DAYS, choice.span.starts(now)
    wanted = [table.c.period >= starts[0]]
    wanted += [table.c.account == fitted(choice.account, table.c.account)] if choice.account else []
    wanted += [table.c.model == fitted(choice.model, table.c.model)] if choice.model else []
    with engine.connect() as connection:
        grouped = select(table.c.period, table.c.model, *_sums(table)).where(*wanted)
        rows = connection.execute(grouped.group_by(table.c.period, table.c.model)).all()
        tokens = func.sum(table.c.input_tokens + table.c.output_tokens)
        most = select(table.c.account, func.max(USAGE_ACCOUNTS.c.name), *_sums(table)).where(*wanted)
        most = most.select_from(table.outerjoin(USAGE_ACCOUNTS, USAGE_ACCOUNTS.c.account == table.c.account))
        most = most.group_by(table.c.account).order_by(tokens.desc(), table.c.account).limit(number)
        accounts = [(row[0], row[1] or "", named(row[2:])) for row in connection.execute(most)]
    return Charted(starts, _by_model(rows, starts, choice.span), accounts, _added(named(row[2:]) for row in rows))


def _sums(table: Table) -> list[ColumnElement[Any]]:
    return [func.sum(table.c[name]) for name in FIGURES]


def _added(sums: Any) -> Sums:
    total = dict.fromkeys(FIGURES, 0)
    for one in sums:
        for name in FIGURES:
            total[name] += one[name]
    return total


def _by_model(rows: Any, starts: list[int], span: Span) -> dict[str, list[Sums]]:
    places = {start: place for place, start in enumerate(starts)}
    found: dict[str, list[Sums]] = {}
    for period, model, *values in sorted(rows, key=lambda row: row[1]):
        line = found.setdefault(model, [dict.fromkeys(FIGURES, 0) for _ in starts])
        place = places.get(span.start_of(int(period)))
        if place is not None:
            line[place] = _added((line[place], named(values)))
    return found
