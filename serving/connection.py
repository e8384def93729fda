"""A client's connection on which nothing waits for ever.

Gunicorn bounds neither the time a request takes to arrive nor the time its answer takes to leave, so a few slow or
silent clients could hold every thread. Here a write that stays unread for `limit` seconds ends the connection, and a
request may keep us waiting `limit` seconds plus the time its bytes need at MIN_BYTES_PER_SECOND.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn

log = logging.getLogger(__name__)

# A slow mobile uplink manages this; a picture of 16 MiB then takes at most 17 minutes.
MIN_BYTES_PER_SECOND = 16 * 1024
# What may still arrive of a request that was answered early, of any size that a route reads: were it left unread, the
# kernel would reset the connection, and a proxy in the midst of sending would lose the answer and report a failure.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024


class ClientSocket(socket.socket):
    """An accepted socket that is never quite blocking: where it is asked to block, it waits `limit` seconds.

    A client that is too slow looks to Gunicorn like one that has gone away, which it knows how to handle.
    """

    def __init__(self, accepted: socket.socket, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._limit = limit
        self._clock = clock
        self.begin_request()

    def begin_request(self) -> None:
        """Start counting anew what the next request makes us wait."""
        self._waited = 0.0
        self._received = 0

    def setblocking(self, flag: bool) -> None:
        self.settimeout(self._limit if flag else 0.0)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return what has arrived. Raises ConnectionResetError once the request has made us wait too long."""
        patience = self.gettimeout()
        if flags or not patience:
            return super().recv(bufsize, flags)
        allowed = self._limit + self._received / MIN_BYTES_PER_SECOND - self._waited
        self.settimeout(max(0.001, min(patience, allowed)))
        began = self._clock()
        try:
            data = super().recv(bufsize)
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the request took too long to arrive") from None
        finally:
            self._waited += self._clock() - began
            self.settimeout(patience)
        self._received += len(data)
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        # A socket with a limit never blocks underneath, so this is the whole write of an event of a stream, in one
        # system call; socket.sendall would ask before each write whether there is room.
        try:
            sent = os.write(self.fileno(), data) if not flags else 0
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            with self._giving_up():
                super().sendall(memoryview(data)[sent:], flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        with self._giving_up():
            return super().sendfile(file, offset, count)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            log.info("A client left its answer unread for %g s; its connection is closed.", self._limit)
            raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from None


class Connection(TConn):  # type: ignore[misc]
    """Gunicorn's state of one connection, over a ClientSocket; closing it again does nothing."""

    sock: ClientSocket

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._closed = False

    def close(self, graceful: bool = False) -> None:
        if not self._closed:
            self._closed = True
            self.sock.begin_request()
            if graceful:
                close_graceful(self.sock, LINGER_SECONDS, LINGER_BYTES)
            else:
                super().close()
