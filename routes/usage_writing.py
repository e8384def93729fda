"""Writes the lines of a report of usage as they are read from the database, as JSON or as CSV.

A report of 100,000 lines is tens of megabytes. So its lines are there as what is sent alone, which counts in the budget
of request bodies until it has been sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from database.tables import FIGURES
from engine.errors import Overloaded
from keys.written import in_words
from routes.csv_answer import csv_rows
from routes.sse import plain
from routes.usage_bodies import UsageFigures, UsageLine
from usage.prices import as_money
from usage.report import Line

COUNTS = [name for name in FIGURES if name not in ("milliseconds", "cost")]
TOO_MANY = "Too many reports of usage are being made; try again later."
AGAIN_SECONDS = 5


def bounded(write: Callable[[list[Line]], bytes], grow: Callable[[int], bool]) -> Callable[[list[Line]], list[bytes]]:
    """Return what writes lines within a budget of bytes, and raises Overloaded beyond. grow: takes so many of it."""

    def written(lines: list[Line]) -> list[bytes]:
        part = write(lines)
        if not grow(len(part)):
            raise Overloaded(TOO_MANY, AGAIN_SECONDS)
        return [part]

    return written


def as_json(lines: list[Line]) -> bytes:
    """Return lines as JSON, without the brackets of their list."""
    return plain([_body(line) for line in lines])[1:-1].encode()


def as_rows(by: tuple[str, ...], currency: str) -> Callable[[list[Line]], bytes]:
    """Return what writes lines as rows of the columns that `columns_of` names."""

    def written(lines: list[Line]) -> bytes:
        return csv_rows(
            [
                *(_shown(part, line.parts[part]) for part in by),
                *([line.name] if "account" in by else []),
                *(line.figures[name] for name in COUNTS),
                f"{line.figures['milliseconds'] / 1000:.3f}",
                as_money(line.figures["cost"]),
                currency,
            ]
            for line in lines
        )

    return written


def columns_of(by: tuple[str, ...]) -> list[str]:
    """Return the columns of a table by these parts."""
    return [*by, *(["name"] if "account" in by else []), *COUNTS, "seconds", "cost", "currency"]


def figures_of(figures: dict[str, int]) -> UsageFigures:
    """Return sums as they are shown."""
    counts = {name: figures[name] for name in COUNTS}
    shown = {**counts, "seconds": figures["milliseconds"] / 1000, "cost": as_money(figures["cost"])}
    return cast(UsageFigures, shown)


def _body(line: Line) -> UsageLine:
    parts = {part: _shown(part, value) for part, value in line.parts.items()}
    named = {"name": line.name} if line.name else {}
    return cast(UsageLine, {**parts, **named, **figures_of(line.figures)})


def _shown(part: str, value: int | str) -> str:
    """Return a part of a line: a day, an hour, or a name."""
    if isinstance(value, str):
        return value
    return in_words(value)[:10] if part == "day" else in_words(value)
