"""The clients with most generation requests of the last hour, for the operator's page.

Memory is bounded whoever calls: an interval holds at most CLIENTS clients. Where they are more, one that has sent least
gives way to a new one, which takes over its count (Metwally et al. 2005, Space-Saving), so that who sends much is found
however many others there are; its count is then at most too large.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL = 300.0  # seconds
INTERVALS = 12  # one hour
CLIENTS = 256


@dataclass(slots=True)
class Count:
    """One client's requests, those of them that were refused or failed, and the tokens that it used.

    client: a key's name, or an address.
    """

    client: str
    requests: int = 0
    failed: int = 0
    tokens: int = 0


class Busiest:
    """Counts requests by account. Thread-safe. clock: seconds, never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, capacity: int = CLIENTS) -> None:
        self._clock, self._capacity = clock, capacity
        self._lock = threading.Lock()  # guards the field below
        self._intervals: deque[tuple[float, dict[str, Count]]] = deque(maxlen=INTERVALS)

    def count(self, account: str, client: str, *, failed: bool) -> None:
        """Count a request. account: its id, under which it is counted; client: what it is shown as."""
        with self._lock:
            found = self._of(account, client)
            found.requests += 1
            found.failed += failed

    def spend(self, account: str, client: str, tokens: int) -> None:
        """Add the tokens that a request has used."""
        with self._lock:
            self._of(account, client).tokens += tokens

    def most(self, number: int) -> list[Count]:
        """Return the clients with most requests in the last hour, most first."""
        sums: dict[str, Count] = {}
        with self._lock:
            oldest = self._clock() - INTERVAL * INTERVALS
            for began, counts in self._intervals:
                for account, one in counts.items() if began > oldest else ():
                    total = sums.setdefault(account, Count(one.client))
                    total.requests += one.requests
                    total.failed += one.failed
                    total.tokens += one.tokens
        return sorted(sums.values(), key=lambda one: -one.requests)[:number]

    def _of(self, account: str, client: str) -> Count:
        counts = self._current()
        found = counts.get(account)
        if found is None:
            found = counts[account] = self._make_room(counts, client)
        return found

    def _current(self) -> dict[str, Count]:
        now = self._clock()
        if not self._intervals or now - self._intervals[-1][0] >= INTERVAL:
            self._intervals.append((now, {}))
        return self._intervals[-1][1]

    def _make_room(self, counts: dict[str, Count], client: str) -> Count:
        if len(counts) < self._capacity:
            return Count(client)
        least = min(counts, key=lambda account: counts[account].requests)
        return Count(client, counts.pop(least).requests)
