"""Numbers and times of a key's fields as an operator writes them, times in UTC."""

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
