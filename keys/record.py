"""A client key as it is kept: whose it is, what it may do and until when, and the digests of its secret."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from database.strings import storable
from keys.account import Account, Limits

PRIORITIES = ("low", "normal", "high")
LIMITS = tuple(field.name for field in fields(Limits))
FIELDS = ("name", "expires_at", "priority", "models", "notes", *LIMITS)  # that an operator sets
MAX_NAME, MAX_NOTES, MAX_MODELS = 128, 2000, 64
LARGEST_LIMIT = 10**15
LAST_SECOND = 253_402_300_799  # of the year 9999, the last one that a date has


class KeyFieldError(ValueError):
    """A field of a key that cannot be; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Times are seconds since the epoch, None for never.

    account: what it stands for, under `key:<id>`; previous_hash: of the secret before the last rotation, good until
    previous_until; source: "database" or "file".
    """

    id: str
    hash: str
    account: Account
    created_at: int = 0
    expires_at: int | None = None
    disabled_at: int | None = None
    previous_hash: str | None = None
    previous_until: int | None = None
    notes: str = ""
    source: str = "database"

    @property
    def name(self) -> str:
        """Its name, as logs and pages show it."""
        return self.account.name

    def field(self, name: str) -> Any:
        """Return one of FIELDS."""
        if name in LIMITS:
            return getattr(self.account.limits, name)
        return getattr(self if name in ("expires_at", "notes") else self.account, name)

    def state(self, now: float) -> str:
        """Return `active`, `disabled` or `expired`."""
        if self.disabled_at is not None:
            return "disabled"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    def hashes(self, now: float) -> tuple[str, ...]:
        """Return the digests of the secrets that are good: the key's own, then that before it in its grace time."""
        in_time = self.previous_until is not None and now < self.previous_until
        return (self.hash, self.previous_hash) if in_time and self.previous_hash is not None else (self.hash,)


def key_of(row: Mapping[str, Any], source: str = "database") -> Key:
    """Return the key of a row of the table, or of a line of the file, by its columns. Raises KeyFieldError."""
    key_id, models = row["id"], row.get("models")
    if isinstance(models, str):
        models = models.split(",")
    account = Account(
        f"key:{key_id}",
        checked_name(row["name"]),
        _limits(tuple(checked_limit(name, row.get(name)) for name in LIMITS)),
        checked_models(models),
        checked_priority(row.get("priority") or "normal"),
    )
    return Key(
        key_id,
        row["hash"],
        account,
        row.get("created_at") or 0,
        row.get("expires_at"),
        row.get("disabled_at"),
        row.get("previous_hash"),
        row.get("previous_until"),
        row.get("notes") or "",
        source,
    )


@lru_cache(1024)
def _limits(values: tuple[int | None, ...]) -> Limits:
    """Return limits; keys with the same ones share them."""
    return Limits(*values)


def checked_name(name: object) -> str:
    """Return the name of a key. Raises KeyFieldError for one that is empty, too long, or not printable."""
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise KeyFieldError(f"name: expected 1 to {MAX_NAME} printable characters")
    return name.strip()


def checked_models(models: object) -> frozenset[str] | None:
    """Return the names of models, None for all. Raises KeyFieldError."""
    if models is None:
        return None
    names = [name.strip() if isinstance(name, str) else "" for name in models] if isinstance(models, list) else []
    if not 0 < len(names) <= MAX_MODELS or not all(
        0 < len(name) <= MAX_NAME and name.isprintable() and "," not in name for name in names
    ):
        raise KeyFieldError(f"models: expected 1 to {MAX_MODELS} names of models")
    return frozenset(names)


def checked_priority(priority: object) -> str:
    """Return a priority. Raises KeyFieldError."""
    if priority not in PRIORITIES:
        raise KeyFieldError(f"priority: expected {' or '.join(PRIORITIES)}")
    return str(priority)


def checked_limit(name: str, value: object) -> int | None:
    """Return a limit, None where there is none of its own. Raises KeyFieldError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_LIMIT:
        raise KeyFieldError(f"{name}: expected a whole number from 0 to {LARGEST_LIMIT}")
    return value


def checked_time(name: str, value: object) -> int | None:
    """Return seconds since the epoch, None for never. Raises KeyFieldError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_SECOND:
        raise KeyFieldError(f"{name}: expected a time from 1970 to 9999")
    return value


def check_known(models: Iterable[str], known: Collection[str] | None) -> None:
    """Raise KeyFieldError for a model that the service does not have. known: the names it has, None for any."""
    if known is not None and not set(models) <= set(known):
        shown = ", ".join(name for name in known if "-demo" not in name)
        raise KeyFieldError(f"models: expected names of this service's models ({shown})")


def check_not_over(expires_at: int | None, now: float) -> None:
    """Raise KeyFieldError for an expiry that is past already."""
    if expires_at is not None and expires_at <= now:
        raise KeyFieldError("expires_at: expected a time in the future")


def checked_notes(notes: object) -> str:
    """Return notes. Raises KeyFieldError."""
    if not isinstance(notes, str) or len(notes) > MAX_NOTES or notes != storable(notes):
        raise KeyFieldError(f"notes: expected at most {MAX_NOTES} characters of Unicode, without NUL")
    return notes
