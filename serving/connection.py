"""A client connection on which every read and write is bounded in time.

Gunicorn bounds neither receiving a request nor sending a response, so a few slow or silent clients could occupy every
thread. Here a write that blocks for `limit` seconds ends the connection, and receiving a request may take `limit`
seconds plus the time its bytes need at MIN_BYTES_PER_SECOND.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn

if TYPE_CHECKING:
    from socket import _SendableFile

    from typing_extensions import Buffer

log = logging.getLogger("avito_ai.serving")

# The rate of a slow mobile uplink; an image of 16 MiB then takes at most 17 minutes.
MIN_BYTES_PER_SECOND = 16 * 1024
# How long and how much of a request that was answered early is still read before its connection is closed. With unread
# data the kernel would reset the connection, and a proxy that is still sending would lose the response.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024


class ClientSocket(socket.socket):
    """An accepted socket whose blocking mode is a time-out of `limit` seconds.

    A client that is too slow is reported as disconnected, by errors that Gunicorn handles.
    """

    def __init__(self, accepted: socket.socket, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._limit = limit
        self._clock = clock
        self.begin_request()

    def begin_request(self) -> None:
        """Reset the time and bytes counted for a request."""
        self._waited = 0.0
        self._received = 0

    def setblocking(self, flag: bool) -> None:
        self.settimeout(self._limit if flag else 0.0)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return received bytes. Raises ConnectionResetError once the request has exceeded its time."""
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

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        # The socket has a time-out and is therefore non-blocking, so an event of a stream usually leaves in this one
        # system call; socket.sendall would poll for room before each write.
        try:
            sent = os.write(self.fileno(), data) if not flags else 0
        except BlockingIOError:
            sent = 0
        view = memoryview(data)
        if sent < view.nbytes:
            with self._timeout_as_disconnect():
                super().sendall(view[sent:], flags)

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        with self._timeout_as_disconnect():
            return super().sendfile(file, offset, count)

    @contextmanager
    def _timeout_as_disconnect(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            log.info("A client did not read its response for %g s; its connection is closed.", self._limit)
            raise BrokenPipeError(errno.EPIPE, "the client does not read its response") from None


class Connection(TConn):  # type: ignore[misc]
    """Gunicorn's state of one connection, over a ClientSocket; `close` is idempotent."""

    sock: ClientSocket

    def __init__(self, *args: object) -> None:
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
