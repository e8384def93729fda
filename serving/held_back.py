"""Requests that no thread is given yet, since their clients have many times the others' requests in service, or had.

Where the models compute on the cores of the threads that serve requests, even a thread that only begins and waits takes
time from the answers of the others. So such a request stays with the poller until others would not notice it any more,
or for as long as courtesy asks, and until the poller looks again. What generates is refused once LINE requests of its
client wait: more would only wait longer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from serving.connection import Connection

LINE = 32  # requests of one client
READING = (b"GET ", b"HEAD ")

Courtesy = Callable[[str, bool], float]


class HeldBack:
    """The connections whose requests wait. Used by the polling thread alone.

    courtesy: for how many seconds one more request of a client is to wait at most, given whether it only reads;
    hand_over: gives a thread a connection to serve, and counts its request.
    """

    def __init__(
        self,
        courtesy: Courtesy,
        hand_over: Callable[[Connection], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._courtesy, self._hand_over, self._clock = courtesy, hand_over, clock
        self._of_clients: dict[str, deque[tuple[float, Connection]]] = {}  # with when they came

    def put(self, conn: Connection) -> None:
        """Hand a connection over, at once or when its client no longer has too many."""
        if self._courtesy(conn.asked_by, reads(conn)):
            self._of_clients.setdefault(conn.asked_by, deque()).append((self._clock(), conn))
        else:
            self._hand_over(conn)

    def full(self, client: str) -> bool:
        """Return whether so many requests of a client wait that another one is to be refused."""
        return len(self._of_clients.get(client, ())) >= LINE

    def hand_on(self, everything: bool = False) -> None:
        """Hand over what need not wait any longer; to be called when a request has ended, and from time to time."""
        if not self._of_clients:
            return
        now = self._clock()
        for client, waiting in list(self._of_clients.items()):
            while waiting and (everything or now - waiting[0][0] >= self._courtesy(client, reads(waiting[0][1]))):
                self._hand_over(waiting.popleft()[1])
            if not waiting:
                del self._of_clients[client]


def reads(conn: Connection) -> bool:
    """Return whether a connection's request only reads."""
    return conn.sock.request_head.startswith(READING)
