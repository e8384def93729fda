"""Tries of ADMIN_KEY, limited per client, whichever way the key is offered: in a header or in the sign-in form."""

from __future__ import annotations

import threading

from edge import caller
from edge.rate_limit import RateLimiter

TRIES_PER_MINUTE, TRIES_PER_HOUR = 5, 20
BUDGET = "admin-key"


class KeyTries:
    """Compares offered keys with ADMIN_KEY. Thread-safe.

    Wrong keys are charged to the client that offers them. Once its tries are spent, a right key is refused as well:
    otherwise guessing could go on. Other clients are not affected.
    """

    def __init__(self, limiter: RateLimiter | None = None) -> None:
        self._limiter = limiter or RateLimiter(TRIES_PER_MINUTE, TRIES_PER_HOUR)
        self._lock = threading.Lock()  # guards a look at a budget and the charge that follows it

    def fits(self, offered: str, admin_key: str | None, client: str) -> bool:
        """True if the key is ADMIN_KEY. client: whose budget a wrong one is charged to. Raises OverBudget."""
        with self._lock:
            self._limiter.spend(BUDGET, client, only_look=True)
            if caller.key_fits(offered, admin_key):
                return True
            self._limiter.spend(BUDGET, client)
            return False
