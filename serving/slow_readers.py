"""Which threads wait for clients that do not read: a bounded number, shared out between their addresses.

Where it is reached, the address that has most gives way to one that has less: its longest wait is cut short, and its
connection with it. So nobody can take all of them, however often a connection is opened again.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger("avito_ai.serving")

PATIENCE = 0.2  # seconds in which a write may find a thread that waits no longer
CLOSED = "Too many clients do not read their responses; the connection of one more is closed."


class TooManySlowReaders(Exception):
    """No thread may wait for another client that does not read."""


@dataclass(frozen=True, slots=True, eq=False)
class _Wait:
    client: str
    cut: Callable[[], None]


class SlowReaders:
    """The waits of one process. Safe to use from any thread. most: how many there may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()  # guards the field below
        self._waits: dict[_Wait, None] = {}  # the longest first

    def __len__(self) -> int:
        return len(self._waits)

    @contextmanager
    def waiting(self, client: str, cut: Callable[[], None]) -> Iterator[None]:
        """Wait for a client in this context. client: whose share it counts in; cut: ends the wait, and never blocks.

        Raises TooManySlowReaders where no address has more than its share, and no wait ends in time.
        """
        wait = _Wait(client, cut)
        with self._changed:
            if len(self._waits) >= self._most and not self._cut_for(client):
                self._changed.wait_for(lambda: len(self._waits) < self._most, PATIENCE)
            if len(self._waits) >= self._most:
                log.warning(CLOSED)
                raise TooManySlowReaders
            self._waits[wait] = None
        try:
            yield
        finally:
            with self._changed:
                self._waits.pop(wait, None)
                self._changed.notify()

    def _cut_for(self, client: str) -> bool:
        """Cut a wait of the address that has most, if that still has as many as this one then; the lock is held."""
        shares = Counter(wait.client for wait in self._waits)
        greediest, most = shares.most_common(1)[0]
        if most <= shares[client] + 1:
            return False
        longest = next(wait for wait in self._waits if wait.client == greediest)
        del self._waits[longest]
        log.warning(CLOSED)
        longest.cut()
        return True
