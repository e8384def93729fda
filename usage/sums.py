"""Sums of records, as the tables have them: by hour, by day and by user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add
from typing import Any

from database.strings import fitted
from database.tables import FIGURES, USAGE_ACCOUNTS, USAGE_DAYS, USAGE_USERS
from usage.periods import DAY
from usage.record import UsageRecord

HOUR = 3600
Figures = tuple[int, ...]  # in the order of FIGURES
Key = tuple[int, str, str]  # the first second of a period, an account, and a model or a user


@dataclass(slots=True)
class Sums:
    """What some records add to the tables. names: of accounts, each with the hour in which it was seen last."""

    hours: dict[Key, Figures] = field(default_factory=dict)
    days: dict[Key, Figures] = field(default_factory=dict)
    users: dict[Key, Figures] = field(default_factory=dict)
    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    records: int = 0

    def __len__(self) -> int:
        """How many rows these are."""
        return len(self.hours) + len(self.days) + len(self.users)

    def add(self, record: UsageRecord) -> None:
        """Add a record."""
        figures = _figures(record)
        hour, day, user = _keys(record)
        _add(self.hours, hour, figures)
        _add(self.days, day, figures)
        if record.user:
            _add(self.users, user, figures)
        if record.name:
            self.names[hour[1]] = fitted(record.name, USAGE_ACCOUNTS.c.name), hour[0]
        self.records += 1

    def has_rows(self, record: UsageRecord, user: bool = True) -> bool:
        """Return whether a record would add to rows that are there alone. user: whether that of its user must be."""
        hour, day, of_user = _keys(record)
        there = hour in self.hours and day in self.days
        return there and (not user or not record.user or of_user in self.users)


def summed(records: Iterable[UsageRecord]) -> Sums:
    """Return the sums of some records."""
    sums = Sums()
    for record in records:
        sums.add(record)
    return sums


def named(values: Iterable[Any]) -> dict[str, int]:
    """Return sums of a query by FIGURES; PostgreSQL's are decimals, and there are none of no rows."""
    return {name: int(value or 0) for name, value in zip(FIGURES, values, strict=True)}


def _keys(record: UsageRecord) -> tuple[Key, Key, Key]:
    """Return the keys of a record's rows: of its hour, its day, and its user."""
    account, model = fitted(record.account, USAGE_DAYS.c.account), fitted(record.model, USAGE_DAYS.c.model)
    hour, day = int(record.at // HOUR) * HOUR, int(record.at // DAY) * DAY
    return (hour, account, model), (day, account, model), (day, account, fitted(record.user, USAGE_USERS.c.user))


def _figures(record: UsageRecord) -> Figures:
    tokens = (record.input_tokens, record.output_tokens, record.cached_tokens)
    return (1, 1 if record.failure else 0, *tokens, record.images, record.milliseconds, record.cost)


def _add(table: dict[Key, Figures], key: Key, figures: Figures) -> None:
    before = table.get(key)
    table[key] = figures if before is None else tuple(map(add, before, figures))
