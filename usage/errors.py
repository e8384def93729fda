"""The refusals of an account that has used what it may, as one tree; each has the name of the limit.

    RetryLater
    ├── BudgetExceeded           a budget of a day or a month is spent
    └── LimitReached             as much is in flight, or was used this minute, as the account may
        └── HeldBack             what is left may go to requests in flight

They know no HTTP: the table in `edge.errors` gives each its status.
"""

from __future__ import annotations

from engine.errors import RetryLater


class BudgetExceeded(RetryLater):
    """A budget is spent until it renews, `retry_after` seconds from now. limit: its name."""

    def __init__(self, message: str, retry_after: int, limit: str) -> None:
        super().__init__(message, retry_after)
        self.limit = limit


class LimitReached(RetryLater):
    """As much is in flight, or was used in the last minute, as is allowed. limit: its name."""

    def __init__(self, message: str, retry_after: int, limit: str) -> None:
        super().__init__(message, retry_after)
        self.limit = limit


class HeldBack(LimitReached):
    """What is left of a limit may be used up by requests in flight; it is known when one of them has ended.

    unsized: some of them are of unknown size, which will be known soon.
    """

    unsized = False
