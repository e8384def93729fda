"""The audit trail: which administrative act was done, by whom, from where. Nothing that a client asked stands in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select

from database.strings import fitted
from database.tables import AUDIT


@dataclass(frozen=True, slots=True)
class Act:
    """One act. at: seconds since the epoch; id: grows with each act."""

    id: int
    at: int
    actor: str
    address: str
    action: str
    target: str
    details: Mapping[str, Any]


def record(
    database: Engine | Connection,
    actor: str,
    address: str,
    action: str,
    target: str = "",
    details: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Write an act, in the transaction of a given connection or in one of its own. Raises SQLAlchemyError.

    actor: who, such as `admin`, `local`, `command line` or an account's id; address: where from, "" for none; action:
    such as `key.create`; target: what it was done to; details: JSON, and never a secret.
    """
    row = {
        "at": int(clock()),
        "actor": fitted(actor, AUDIT.c.actor),
        "address": fitted(address, AUDIT.c.address),
        "action": fitted(action, AUDIT.c.action),
        "target": fitted(target, AUDIT.c.target),
        "details": json.dumps(dict(details or {}), sort_keys=True),
    }
    with _transaction(database) as connection:
        connection.execute(insert(AUDIT), row)


def acts(database: Engine | Connection, before: int | None = None, limit: int = 100) -> list[Act]:
    """Return the newest acts first. before: those with a smaller id. Raises SQLAlchemyError."""
    query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AUDIT.c.id < before)
    with _transaction(database) as connection:
        rows = connection.execute(query).mappings().all()
    return [Act(**{**row, "details": json.loads(row["details"])}) for row in rows]


def forget(database: Engine | Connection, before: int) -> int:
    """Delete the acts from before this second; return how many. Raises SQLAlchemyError."""
    with _transaction(database) as connection:
        return connection.execute(delete(AUDIT).where(AUDIT.c.at < before)).rowcount


def _transaction(database: Engine | Connection) -> AbstractContextManager[Connection]:
    return nullcontext(database) if isinstance(database, Connection) else database.begin()
