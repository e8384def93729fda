"""The keys in the database: made, changed and removed, each change with its entry in the audit trail.

A change advances the revision of keys and takes it along, so that the copies of the service read that row alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, or_, select, update

from database.audit import record
from database.connect import Database
from database.revisions import advance, current
from database.strings import storable
from database.tables import API_KEYS
from keys.record import (
    FIELDS,
    Key,
    KeyFieldError,
    check_known,
    check_not_over,
    checked_limit,
    checked_models,
    checked_name,
    checked_notes,
    checked_priority,
    checked_time,
    key_of,
)
from keys.secret import new_key

REVISION, DELETED = "keys", "keys_deleted"
UNTOLD = ("id", "hash", "revision", "created_at", "disabled_at")  # secret, or told by the rest of the act
SEARCHED = ("name", "id", "notes")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes keys, for the audit trail. name: such as `admin`, or the system's user; address: of a request."""

    name: str
    address: str = ""


class UnknownKey(LookupError):
    """No key of the database has this id or name."""


class ChangedMeanwhile(Exception):
    """Fields that are to be changed are no longer as they were looked at; `fields`: their names."""

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__(f"{', '.join(fields)}: changed meanwhile")
        self.fields = fields


class KeyRegistry:
    """The keys in the database. Every method raises DatabaseError or SQLAlchemyError where the database fails.

    A key is named by its id or its name. clock: seconds since the epoch. Fields are those of FIELDS; a wrong one raises
    KeyFieldError. models: the names of those that a key may be for, None for any.
    """

    def __init__(
        self, database: Database, clock: Callable[[], float] = time.time, models: Collection[str] | None = None
    ) -> None:
        self._database, self._clock, self.models = database, clock, models

    def make(self, by: Actor, name: str, **fields: Any) -> tuple[Key, str]:
        """Add a key; return it and its text, which nothing keeps."""
        made, values = new_key(), self.columns({"name": name} | fields)
        with self._change() as connection:
            values |= {"id": made.id, "hash": made.hash, "created_at": self._now()}
            values["revision"] = advance(connection, REVISION)
            _check_name_is_free(connection, values["name"])
            connection.execute(insert(API_KEYS).values(**values))
            given = {name: value for name, value in values.items() if value is not None}
            self._record(connection, by, "key.create", made.id, given)
            return _get(connection, made.id), made.text

    def columns(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a new key as columns of its row."""
        values = _columns(fields)
        self._check(values)
        return values

    def change(self, by: Actor, key_id: str, *, looked_at: Key | None = None, **fields: Any) -> Key:
        """Change fields of a key; None takes one back to its default. Raises UnknownKey.

        looked_at: the key for which it was decided; raises ChangedMeanwhile if one of these fields is another now.
        """
        return self._update(by, "key.change", key_id, _columns(fields), looked_at)

    def disable(self, by: Actor, key_id: str) -> Key:
        """Refuse a key from now on. Raises UnknownKey."""
        return self._update(by, "key.disable", key_id, {"disabled_at": self._now()})

    def enable(self, by: Actor, key_id: str) -> Key:
        """Accept a disabled key again. Raises UnknownKey."""
        return self._update(by, "key.enable", key_id, {"disabled_at": None})

    def rotate(self, by: Actor, key_id: str, grace: float = 0.0) -> tuple[Key, str]:
        """Give a key another secret; return it and its text. The old secret stays good for `grace` seconds."""
        with self._change() as connection:
            revision, old = advance(connection, REVISION), _get(connection, key_id)
            made = new_key(old.id)
            until = checked_time("grace", self._now() + int(grace)) if grace > 0 else None
            values = {"hash": made.hash, "previous_hash": old.hash if until else None, "previous_until": until}
            _write(connection, old.id, values | {"revision": revision})
            self._record(connection, by, "key.rotate", old.id, {"grace": int(grace)})
            return _get(connection, old.id), made.text

    def delete(self, by: Actor, key_id: str) -> None:
        """Remove a key; its usage stays under its id. Raises UnknownKey."""
        with self._change() as connection:
            advance(connection, DELETED)
            gone = _get(connection, key_id)
            connection.execute(delete(API_KEYS).where(API_KEYS.c.id == gone.id))
            self._record(connection, by, "key.delete", gone.id, {"name": gone.name})

    def find(self, id_or_name: str) -> Key:
        """Return the key of this id or name. Raises UnknownKey."""
        with self._database.engine().connect() as connection:
            return _get(connection, id_or_name)

    def all(self) -> list[Key]:
        """Return all keys, the oldest first."""
        with self._database.engine().connect() as connection:
            rows = connection.execute(select(API_KEYS).order_by(API_KEYS.c.created_at, API_KEYS.c.id)).mappings()
            return [key_of(dict(row)) for row in rows]

    def page(self, text: str, after: str, number: int) -> list[Key]:
        """Return the first keys by name behind `after` whose name, id or notes contain a text."""
        escaped = re.sub("([%_/])", r"/\1", storable(text))
        contains = or_(  # SQLite knows the case of ASCII letters alone
            *(API_KEYS.c[name].like(f"%{escaped}%", escape="/") for name in SEARCHED),
            *(func.lower(API_KEYS.c[name]).like(f"%{escaped.lower()}%", escape="/") for name in SEARCHED),
        )
        query = select(API_KEYS).where(API_KEYS.c.name > storable(after)).order_by(API_KEYS.c.name).limit(number)
        if text:
            query = query.where(contains)
        with self._database.engine().connect() as connection:
            return [key_of(dict(row)) for row in connection.execute(query).mappings()]

    def revisions(self) -> tuple[int, int]:
        """Return the revision of the last change, and that of the last removal."""
        with self._database.engine().connect() as connection:
            return current(connection, REVISION), current(connection, DELETED)

    def changed_since(self, revision: int) -> Iterable[Key]:
        """Yield the keys that were made or changed after a revision."""
        query = select(API_KEYS).where(API_KEYS.c.revision > revision).execution_options(yield_per=1000)
        with self._database.engine().connect() as connection:
            for row in connection.execute(query).mappings():
                yield key_of(dict(row))

    def ids(self) -> set[str]:
        """Return the ids of all keys."""
        with self._database.engine().connect() as connection:
            return set(connection.execute(select(API_KEYS.c.id)).scalars())

    def _update(self, by: Actor, action: str, key_id: str, values: dict[str, Any], looked_at: Key | None = None) -> Key:
        with self._change() as connection:
            revision, row = advance(connection, REVISION), _row(connection, key_id)
            if looked_at is not None:
                _check_unchanged(values, looked_at, key_of(row))
            changed = {name: value for name, value in values.items() if value != row[name]}
            self._check(changed)  # what has become past or unknown may stay
            if "name" in changed:
                _check_name_is_free(connection, changed["name"])
            _write(connection, row["id"], values | {"revision": revision})
            self._record(connection, by, action, row["id"], {"name": row["name"]} | changed)
            return _get(connection, row["id"])

    def _check(self, values: Mapping[str, Any]) -> None:
        """Raise KeyFieldError for what nobody would want to set."""
        check_not_over(values.get("expires_at"), self._clock())
        check_known(values["models"].split(",") if values.get("models") else (), self.models)

    def _change(self) -> AbstractContextManager[Connection]:
        return self._database.engine().begin()

    def _record(
        self, connection: Connection, by: Actor, action: str, key_id: str, details: Mapping[str, object]
    ) -> None:
        shown = {name: value for name, value in details.items() if name not in UNTOLD}
        record(connection, by.name, by.address, action, f"key:{key_id}", shown, self._clock)

    def _now(self) -> int:
        return int(self._clock())


def _get(connection: Connection, id_or_name: str) -> Key:
    return key_of(_row(connection, id_or_name))


def _row(connection: Connection, id_or_name: str) -> dict[str, Any]:
    id_or_name = storable(id_or_name)
    columns = or_(API_KEYS.c.id == id_or_name, API_KEYS.c.name == id_or_name)
    rows: list[RowMapping] = list(connection.execute(select(API_KEYS).where(columns)).mappings())
    found = next((row for row in rows if row["id"] == id_or_name), rows[0] if rows else None)
    if found is None:
        raise UnknownKey("There is no key of this id or name in the database.")
    return dict(found)


def _write(connection: Connection, key_id: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(API_KEYS).where(API_KEYS.c.id == key_id).values(**values))


def _check_unchanged(fields: Iterable[str], looked_at: Key, now: Key) -> None:
    if changed := [name for name in fields if now.field(name) != looked_at.field(name)]:
        raise ChangedMeanwhile(changed)


def _check_name_is_free(connection: Connection, name: str) -> None:
    taken = select(func.count()).select_from(API_KEYS).where(or_(API_KEYS.c.name == name, API_KEYS.c.id == name))
    if connection.execute(taken).scalar_one():
        raise KeyFieldError("name: there is already a key of this name")


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a key as columns of its row. Raises KeyFieldError."""
    if unknown := fields.keys() - set(FIELDS):
        raise KeyFieldError(f"{', '.join(sorted(unknown))}: no such field of a key")
    return {name: _column(name, value) for name, value in fields.items()}


def _column(name: str, value: Any) -> Any:
    if name == "name":
        return checked_name(value)
    if name == "models":
        models = checked_models(None if value is None else list(value))
        return None if models is None else ",".join(sorted(models))
    if name == "priority":
        return checked_priority("normal" if value is None else value)
    if name == "notes":
        return checked_notes(value or "")
    if name == "expires_at":
        return checked_time(name, value)
    return checked_limit(name, value)
