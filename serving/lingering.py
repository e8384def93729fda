"""Connections that are closed behind an answer, whose clients may still be sending.

For a while what may still arrive is read and thrown away: were it left unread, the kernel would reset the connection,
and the client would lose its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.quick_calls import Buffer
from serving.connection import Connection

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024


class Lingering:
    """The connections that linger. Belongs to the polling thread. buffer: memory for what is thrown away."""

    def __init__(self, buffer: Buffer, clock: Callable[[], float] = time.monotonic) -> None:
        self._buffer, self._clock = buffer, clock
        self._left: dict[Connection, tuple[float, int]] = {}  # until when, and how many bytes more

    def __len__(self) -> int:
        return len(self._left)

    def __contains__(self, conn: Connection) -> bool:
        return conn in self._left

    def add(self, conn: Connection) -> None:
        """Let a connection linger that is polled."""
        self._left[conn] = (self._clock() + LINGER_SECONDS, LINGER_BYTES)

    def discard(self, conn: Connection) -> None:
        """Forget a connection if it is there."""
        self._left.pop(conn, None)

    def ends_with(self, conn: Connection) -> bool:
        """Throw away what has come on a connection; return whether that was the end: the client's, or enough."""
        until, left = self._left[conn]
        try:
            received = len(conn.sock.receive_now(self._buffer))
        except BlockingIOError:
            return False
        except OSError:
            received = 0
        self._left[conn] = (until, left - received)
        return not received or left <= received

    def due(self, everything: bool = False) -> list[Connection]:
        """Return those whose time is over, or all."""
        now = self._clock()
        return [conn for conn, (until, _) in self._left.items() if everything or now >= until]
