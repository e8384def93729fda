"""Requests that no thread is given yet, since their clients have many times the others' requests in service, or had.

Where the models compute on the cores of the threads that serve requests, even a thread that only begins and waits takes
time from the answers of the others. So such a request stays with the poller until others would not notice it any more,
or for as long as courtesy asks, and until the poller looks again. Between the others' requests it goes on once there is
a turn for it: all that wait would go on at once else, and meet the next request of somebody else. What asks for an
answer is refused from its head once LINE requests of its client wait: more would only wait longer. What is light waits
in a line of its own, and shortly.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.gate import GATED
from edge.in_service import PATIENT
from serving.connection import Connection

LINE = 32  # requests of one client, of each kind
PACE = 0.1  # seconds after which one more of a line goes on, also where all turns are taken

Courtesy = Callable[[str, bool], float]
_Key = tuple[str, bool]  # the client, and whether what waits is light


def _always() -> bool:
    return True


class HeldBack:
    """The connections whose requests wait. Used by the polling thread alone; others may ask whether any wait.

    courtesy: for how many seconds one more request of a client is to wait at most, given whether it is light;
    hand_over: gives a thread a connection to serve, and counts its request; drop: ends one whose client has left;
    free: whether one that is handed over need not wait for its turn; longest: seconds after which none is waited for.
    """

    def __init__(
        self,
        courtesy: Courtesy,
        hand_over: Callable[[Connection], None],
        drop: Callable[[Connection], None],
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[], bool] = _always,
        longest: float = PATIENT,
    ) -> None:
        self._courtesy, self._hand_over, self._drop, self._clock = courtesy, hand_over, drop, clock
        self._free, self._longest = free, longest
        self._lines: dict[_Key, _Line] = {}

    def put(self, conn: Connection) -> None:
        """Hand a connection over, at once or when its client no longer has too many."""
        key, now = (conn.asked_by, is_light(conn)), self._clock()
        line = self._lines.get(key)
        if line is None and not self._courtesy(*key):
            self._hand_over(conn)
            return
        if line is None:
            line = self._lines[key] = _Line(now)
        elif len(line.waiting) >= LINE:  # they came past the gate together
            self._hand_over(line.next(now))
        line.waiting.append((now, conn))

    def __bool__(self) -> bool:
        """Return whether any request waits."""
        return bool(self._lines)

    def full(self, client: str) -> bool:
        """Return whether so many requests of a client wait for answers that another one is to be refused."""
        line = self._lines.get((client, False))
        return line is not None and len(line.waiting) >= LINE

    def hand_on(self, everything: bool = False) -> None:
        """Hand over what need not wait any longer.

        To be called when a request has ended, when a turn is free, and from time to time.
        """
        if not self._lines:
            return
        now = self._clock()
        for key, line in list(self._lines.items()):
            while line.waiting and (everything or self._goes_on(key, line, now)):
                self._hand_over(line.next(now))
            if not line.waiting:
                del self._lines[key]

    def _goes_on(self, key: _Key, line: _Line, now: float) -> bool:
        courtesy, waited = self._courtesy(*key), now - line.waiting[0][0]
        if waited < courtesy:
            return False
        return courtesy > 0 or self._free() or now - line.last >= PACE or waited >= self._longest

    def drop_who_left(self) -> None:
        """End what waits for answers to clients that have left; to be called from time to time.

        What is light is done all the same: it may be meant to change something, as the stop of an answer is.
        """
        for key, line in list(self._lines.items()):
            _, light = key
            left = [] if light else [one for one in line.waiting if one[1].sock.has_left]
            for one in left:
                line.waiting.remove(one)
                self._drop(one[1])
            if not line.waiting:
                del self._lines[key]


@dataclass(slots=True)
class _Line:
    """The requests of one client that wait, with when they came. last: when one went on, or else the first came."""

    last: float
    waiting: deque[tuple[float, Connection]] = field(default_factory=deque)

    def next(self, now: float) -> Connection:
        """Take the first of them, which goes on now."""
        self.last = now
        return self.waiting.popleft()[1]


def is_light(conn: Connection) -> bool:
    """Return whether a connection's request asks for no answer of a model, as far as its head tells."""
    if not conn.sock.request_head.startswith(b"POST "):
        return True
    request = conn.sock.request
    return request is not None and request.plain is not None and request.plain.path not in GATED
