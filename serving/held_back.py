"""Requests that no thread is given yet, since their clients have many times the others' requests in service.

Where the models compute on the cores of the threads that serve requests, even a thread that only begins and waits takes
time from the answers of the others. So such a request stays with the poller until others would not notice it any more,
or for COURTESY seconds, and until the poller looks again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from serving.connection import Connection

COURTESY = 0.3  # seconds


class HeldBack:
    """The connections whose requests wait. Used by the polling thread alone.

    too_many: whether a client has so many requests in service now; hand_over: gives a thread a connection to serve, and
    counts its request.
    """

    def __init__(
        self,
        too_many: Callable[[str], bool],
        hand_over: Callable[[Connection], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._too_many, self._hand_over, self._clock = too_many, hand_over, clock
        self._of_clients: dict[str, deque[tuple[float, Connection]]] = {}  # with when they have waited long enough

    def put(self, conn: Connection) -> None:
        """Hand a connection over, at once or when its client no longer has too many."""
        if self._too_many(conn.asked_by):
            waiting = self._of_clients.setdefault(conn.asked_by, deque())
            waiting.append((self._clock() + COURTESY, conn))
        else:
            self._hand_over(conn)

    def hand_on(self, everything: bool = False) -> None:
        """Hand over what need not wait any longer; to be called when a request has ended, and from time to time."""
        if not self._of_clients:
            return
        now = self._clock()
        for client, waiting in list(self._of_clients.items()):
            while waiting and (everything or waiting[0][0] <= now or not self._too_many(client)):
                self._hand_over(waiting.popleft()[1])
            if not waiting:
                del self._of_clients[client]
