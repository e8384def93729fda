"""The revisions of kinds of data, by which copies of the service notice what others have changed."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from database.tables import REVISIONS


def advance(connection: Connection, name: str) -> int:
    """Return the next revision of a kind of data.

    First in a transaction, it also makes those of other writers wait, so that revisions are committed in their order.
    """
    row = REVISIONS.c.name == name
    step = update(REVISIONS).where(row).values(value=REVISIONS.c.value + 1)
    if not connection.execute(step).rowcount:
        with suppress(IntegrityError), connection.begin_nested():  # another writer may be the first as well
            connection.execute(insert(REVISIONS).values(name=name, value=0))
        connection.execute(step)
    return int(connection.execute(select(REVISIONS.c.value).where(row)).scalar_one())


def current(connection: Connection, name: str) -> int:
    """Return the revision of a kind of data, 0 before its first change."""
    return int(connection.execute(select(REVISIONS.c.value).where(REVISIONS.c.name == name)).scalar() or 0)
