"""Keys in a file (`API_KEYS_FILE`): one JSON object a line, as `python -m keys make NAME --line` prints it.

`{"id": ..., "name": ..., "hash": ...}`, and what else a key of the database may have. Empty lines and those that begin
with # are passed over. The file is the operator's alone: the service only reads it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keys.record import FIELDS, LIMITS, Key, KeyFieldError, check_known, checked_time, key_of
from keys.secret import HASH, ID

TIMES = ("created_at", "expires_at", "disabled_at", "previous_until")
KNOWN = {"id", "hash", "previous_hash", *TIMES, *FIELDS}


class KeyFileError(Exception):
    """The file cannot be used; the message names the line and holds nothing of it."""


def read_keys(file: Path, models: Collection[str] | None = None) -> dict[str, Key]:
    """Return the keys of the file by their ids. models: that there are, None for any. Raises KeyFileError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # JSON has other ends of lines in texts
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise KeyFileError(f"it cannot be read: {reason}") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                key = _key_of(line)
                check_known(key.account.models or (), models)
            except (ValueError, RecursionError) as error:
                reason = str(error) if isinstance(error, KeyFieldError) else "expected a JSON object"
                raise KeyFileError(f"line {number}: {reason}") from error
            if key.id in keys:
                raise KeyFileError(f"line {number}: its id is that of an earlier line")
            keys[key.id] = key
    return keys


def line_of(key: Key) -> str:
    """Return the line of a key."""
    account = key.account
    values = {"id": key.id, "name": key.name, "hash": key.hash, "created_at": key.created_at}
    optional = {name: getattr(account.limits, name) for name in LIMITS} | {
        "expires_at": key.expires_at,
        "models": None if account.models is None else sorted(account.models),
        "priority": None if account.priority == "normal" else account.priority,
        "notes": key.notes or None,
    }
    return json.dumps(values | {name: v for name, v in optional.items() if v is not None}, ensure_ascii=False)


def _key_of(line: str) -> Key:
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise KeyFieldError("expected a JSON object")
    if unknown := row.keys() - KNOWN:
        raise KeyFieldError(f"{', '.join(sorted(unknown))[:100]}: no such field of a key")
    _check(row)
    return key_of(row, "file")


def _check(row: Mapping[str, Any]) -> None:
    if not ID.fullmatch(str(row.get("id"))):
        raise KeyFieldError("id: expected that of the key, between its underscores")
    for name in ("hash", "previous_hash"):
        if (name == "hash" or row.get(name) is not None) and not HASH.fullmatch(str(row.get(name))):
            raise KeyFieldError(f"{name}: expected a SHA-256 of 64 hexadecimal digits")
    for name in TIMES:
        checked_time(name, row.get(name))
    if row.get("expires_at") is not None and row["expires_at"] <= (row.get("created_at") or 0):
        raise KeyFieldError("expires_at: expected a time after created_at")
    if (
        "name" not in row
        or not isinstance(row.get("models"), list | None)
        or not isinstance(row.get("notes"), str | None)
    ):
        raise KeyFieldError("expected a name, models as a list, and notes as a text")
