"""Probes have threads of their own, which clients take in turn: those of one do not hold up those of another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from serving.connection import Connection


class Probing:
    """The probes that wait for one of the threads. Used by the polling thread alone.

    at_once: how many are handed over at the same time; hand_over: gives a thread a connection to serve.
    """

    def __init__(self, at_once: int, hand_over: Callable[[Connection], None]) -> None:
        self._free, self._hand_over = at_once, hand_over
        self._waiting: dict[str, deque[Connection]] = {}  # by client, whose turn comes in this order

    def put(self, conn: Connection) -> None:
        """Hand a probe over, now or in its client's turn."""
        if self._free:
            self._free -= 1
            self._hand_over(conn)
        else:
            self._waiting.setdefault(conn.asked_by, deque()).append(conn)

    def ended(self) -> None:
        """Hand on another probe in the place of one that was served."""
        client = next(iter(self._waiting), None)
        if client is None:
            self._free += 1
            return
        waiting = self._waiting.pop(client)
        conn = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting  # behind the others
        self._hand_over(conn)
