"""Amounts and times of a key's fields as an operator writes and reads them: money in the currency, times in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

MILLION = 1_000_000
WHOLE = re.compile(r"\d{1,15}", re.ASCII)


def shown_money(millionths: int) -> str:
    """Return an amount as it was written."""
    return f"{Decimal(millionths) / MILLION:f}"


def moment_of(text: str) -> int:
    """Return the second since the epoch of an ISO 8601 time, in UTC unless it says otherwise. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    try:
        return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    except OverflowError as error:
        raise ValueError(str(error)) from error
