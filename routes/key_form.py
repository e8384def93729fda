"""The form of a client key on the operator's pages: its fields as they are typed, and back.

Money is typed in the operator's currency and kept in millionths of it; an expiry is typed in UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from config import MILLION, as_money
from keys.record import LIMITS, PRIORITIES, Key, KeyFieldError
from keys.registry import ChangedMeanwhile
from keys.written import WHOLE, moment_of

# Decimal places may follow a comma; three digits behind one are as often thousands.
AMOUNT = re.compile(r"\d{1,9}(?:\.\d{1,6}|,(?!\d{3}\Z)\d{1,6})?", re.ASCII)


def typed_of(key: Key) -> dict[str, str]:
    """Return a key as its form shows it."""
    limits = {name: getattr(key.account.limits, name) for name in LIMITS}
    return {
        "name": key.name,
        "expires_at": shown_time(key.expires_at),
        "priority": key.account.priority,
        "models": ", ".join(sorted(key.account.models or ())),
        "notes": key.notes,
    } | {name: "" if value is None else shown_limit(name, value) for name, value in limits.items()}


def fields_of(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a key that were typed; an empty one is taken back to its default. Raises KeyFieldError."""
    models = [name for name in re.split(r"[\s,]+", typed.get("models", "")) if name]
    priority = typed.get("priority") or "normal"
    if priority not in PRIORITIES:
        raise KeyFieldError("priority: unknown")
    return {
        "name": typed.get("name", ""),
        "expires_at": _time(typed.get("expires_at", "").strip()),
        "priority": priority,
        "models": models or None,
        "notes": typed.get("notes", ""),
    } | {name: _limit(name, typed.get(name, "").strip()) for name in LIMITS}


def shown_then(text: str, now: Mapping[str, str]) -> Mapping[str, str]:
    """Return a key as its form showed it. text: JSON that came back with the form; now: where it is none of ours."""
    try:
        shown = json.loads(text)
    except ValueError:
        return now
    if isinstance(shown, dict) and shown.keys() == now.keys() and all(isinstance(one, str) for one in shown.values()):
        return shown
    return now


def typed_anew(typed: Mapping[str, str], shown: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that are not as the form showed them."""
    fields = {name: typed.get(name, "") for name in shown}
    return {name: text for name, text in fields.items() if _lines(text) != _lines(shown[name])}


def check_not_changed(anew: Mapping[str, str], shown: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ChangedMeanwhile if another has changed fields that were typed anew, and to something else."""
    if both := [name for name in anew if now[name] not in (shown[name], anew[name])]:
        raise ChangedMeanwhile(both)


def shown_limit(name: str, value: int) -> str:
    """Return a limit as it is typed."""
    return as_money(value) if name.startswith("money") else str(value)


def shown_time(moment: int | None) -> str:
    """Return seconds since the epoch as a browser's field has a time, "" for never."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M")


def read_time(moment: int | None) -> str:
    """Return seconds since the epoch as a page shows a time, "" for never."""
    return shown_time(moment).replace("T", " ")


def _lines(text: str) -> list[str]:
    """Return the lines of a text, which browsers end in a way of their own."""
    return text.replace("\r\n", "\n").split("\n")


def _limit(name: str, text: str) -> int | None:
    if not text:
        return None
    if name.startswith("money"):
        if not AMOUNT.fullmatch(text):
            raise KeyFieldError(f"{name}: not an amount")
        return int(Decimal(text.replace(",", ".")) * MILLION)
    if not WHOLE.fullmatch(text):
        raise KeyFieldError(f"{name}: not a number")
    return int(text)


def _time(text: str) -> int | None:
    if not text:
        return None
    try:
        return moment_of(text)
    except ValueError as error:
        raise KeyFieldError("expires_at: not a time") from error
