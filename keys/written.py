"""Numbers and times as an operator writes and reads them, times in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime

WHOLE = re.compile(r"\d{1,15}", re.ASCII)


def moment_of(text: str) -> int:
    """Return the second since the epoch of an ISO 8601 time, in UTC unless it says otherwise. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    try:
        return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    except OverflowError as error:
        raise ValueError(str(error)) from error


def in_words(moment: int) -> str:
    """Return seconds since the epoch as messages show a time, such as 2026-03-01T00:00:00Z."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
