"""A client connection: a request that has arrived whole, and a response whose every write is bounded in time.

Requests are read by `serving.intake` before a thread serves them; here that thread reads what has arrived, and never
the network. Gunicorn does not bound sending a response, so a few clients that do not read could occupy every thread: a
write that blocks for `limit` seconds ends the connection. And only some of the threads may wait for such clients at the
same time (`serving.slow_readers`), so that there is always a thread for the others.

A client that has sent its last byte may be waiting for its answer (half-closed), or have left; TCP shows the same in
both cases. What is sent to one that left is answered with a reset, so `probe` sends something that HTTP has clients
pass over.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gunicorn.workers.gthread import TConn

from edge import caller, turns
from edge.body_budget import Reservation
from edge.disconnect import LEFT
from edge.request_head import RequestHead
from engine.quick_calls import Buffer, close_now, end_sending_now, receive_now, send_now
from serving.framing import Framing, Stage
from serving.plain_request import Parser
from serving.slow_readers import SlowReaders, TooManySlowReaders

if TYPE_CHECKING:
    from socket import _SendableFile

    from typing_extensions import Buffer as Bytes

log = logging.getLogger("avito_ai.serving")

# RFC 9110, section 15.2: a client passes over interim responses, however many. This is the one that all of them know.
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
# What readers of a stream pass over, by its type.
FILLERS = {b"text/event-stream": b": keep-alive\n\n", b"application/x-ndjson": b"\n"}
CLOSES = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked"  # a field of a head in small letters
ANY_NUMBER = SlowReaders(1_000_000)
ENDED = getattr(select, "POLLRDHUP", 0)  # the client has sent its last byte; Linux alone tells
NON_BLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)


class ClientSocket(socket.socket):
    """An accepted socket whose blocking mode is a time-out of `limit` seconds.

    A client that is too slow is reported as disconnected, by errors that Gunicorn handles. `recv` reads the request
    that `begin_request` gave it. body_refused: there was no room in the budget for its body, which was not read.
    waiting: the threads that wait for clients that do not read, shared by all connections; client: the address whose
    share of them this one counts in. never_waits: the answer to this request is small, and a client that has no room
    for it counts as disconnected at once.
    """

    def __init__(
        self, accepted: socket.socket, limit: float, waiting: SlowReaders = ANY_NUMBER, client: str = "unknown"
    ) -> None:
        kind = accepted.type | (NON_BLOCKING if accepted.gettimeout() == 0 else 0)  # its mode already
        super().__init__(accepted.family, kind, accepted.proto, fileno=accepted.detach())
        self._limit, self._waiting, self._client = limit, waiting, client
        self._writing = threading.Lock()  # guards what is sent, and the four fields below
        self._head_sent = False
        self._filler: bytes | None = None  # what may be sent now and means nothing, None where that is unknown
        self._chunked = False
        self._owed = b""  # the rest of what was sent last, to be sent before anything else
        self.request: Framing | None = None  # that is being served
        self.plain_head: RequestHead | None = None  # its head, where no other parser is to read it
        self._reservation: Reservation | None = None
        self.body_refused = False
        self.arrived = 0.0
        self.never_waits = False

    def begin_request(self, request: Framing, reservation: Reservation | None, body_refused: bool) -> None:
        """Serve this request next. reservation: the bytes of its body, released when they are no longer needed."""
        self.request, self._reservation, self.body_refused = request, reservation, body_refused
        self.arrived = time.monotonic()
        self.never_waits = False
        plain = request.plain is not None and request.plain.unambiguous and request.stage is Stage.WHOLE
        self.plain_head = request.plain if plain and not body_refused else None
        request.rewind(behind_head=self.plain_head is not None)
        with self._writing:
            self._head_sent = False
            self._filler = INTERIM if request.http_1_1 else None

    def grow_body(self, size: int) -> bool:
        """Reserve `size` more bytes for a body that is longer than it arrived; False where there is no room."""
        return self._reservation is None or self._reservation.grow(size)

    def release_body(self) -> None:
        """Release the bytes of the body: it has been read, and nothing of it is kept."""
        if self.request is not None:
            self.request.close()
        if self._reservation is not None:
            self._reservation.release()

    def end_request(self) -> None:
        """Release everything that the request holds."""
        self.release_body()
        self.request = None

    @property
    def request_head(self) -> bytes:
        """The request line and the fields, as far as they have arrived."""
        return b"" if self.request is None else self.request.head

    @property
    def request_unreadable(self) -> bool:
        """True where the head has no end: it is too long, or no head at all."""
        return self.request is not None and self.request.unreadable

    @property
    def request_whole(self) -> bool:
        """True where all of the request has arrived, so that another may follow on the connection."""
        return self.request is not None and self.request.stage is Stage.WHOLE

    @property
    def is_last_request(self) -> bool:
        """True where all of the request has arrived, and its head says that no other follows."""
        return self.request_whole and CLOSES.search(self.request_head) is not None

    @property
    def was_reset(self) -> bool:
        """True where the client has reset its connection, so that nobody waits for an answer."""
        return self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    @property
    def has_left(self) -> bool:
        """True where the client has gone. One that has only sent its last byte is probed: if it has gone, too, this
        is true soon after.
        """
        poll = select.poll()
        poll.register(self.fileno(), ENDED)
        events = poll.poll(0)
        return bool(events) and (bool(events[0][1] & LEFT) or not self.probe())

    def setblocking(self, flag: bool) -> None:
        wanted = self._limit if flag else 0.0
        if self.gettimeout() != wanted:  # each change is a system call
            self.settimeout(wanted)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return bytes of the request, b"" at its end. flags: read the socket itself, to peek at it."""
        if flags or self.request is None:
            return super().recv(bufsize, flags)
        return self.request.read(bufsize)

    def receive_now(self, buffer: Buffer) -> bytes:
        """Return what has arrived, at most as much as fits in `buffer`. Raises BlockingIOError where nothing has."""
        return receive_now(self.fileno(), buffer)

    def probe(self) -> bool:
        """Send a client that has sent its last byte something to pass over: if it has left, a reset will follow.

        False where it has been reset already, or nothing can be sent: a client of HTTP/1.0 that waits for its head.
        """
        if not self._writing.acquire(blocking=False):
            return True  # what is being written serves as well
        try:
            if data := self._owed or self._filler:
                self._owed = data[os.write(self.fileno(), data) :]
            return self._filler is not None
        except BlockingIOError:
            return True  # so does what has not been taken yet
        except OSError:
            return False
        finally:
            self._writing.release()

    def sendall(self, data: Bytes, flags: int = 0) -> None:
        with self._writing:
            if not self._head_sent:
                fields = _fields(bytes(data))
                self._head_sent, self._filler = True, _filler(fields)
                self._chunked = CHUNKED in fields
            elif data == LAST_CHUNK:
                self._filler = b""
            if self._owed:
                data, self._owed = self._owed + bytes(data), b""
            self._send_whole(data, flags)

    def close_now(self) -> None:
        """Close, and keep the interpreter lock: the polling thread closes many connections under a flood."""
        descriptor = self.detach()
        if descriptor >= 0:
            with suppress(OSError):
                close_now(descriptor)

    def end_sending_now(self) -> None:
        """Tell the client that no more follows, and keep the interpreter lock. Raises OSError."""
        end_sending_now(self.fileno())

    def send_now(self, data: bytes) -> int:
        """Send what fits without waiting, and keep the interpreter lock; return how much. Raises OSError."""
        return send_now(self.fileno(), data)

    def send_part(self, data: bytes) -> bool:
        """Send a part of the body behind its head, without waiting; False if some of it is left, for `send_rest`."""
        with self._writing:
            self._owed += b"%X\r\n%b\r\n" % (len(data), data) if self._chunked else data
            try:
                self._owed = self._owed[send_now(self.fileno(), self._owed) :]
            except BlockingIOError:
                pass
            return not self._owed

    def send_rest(self) -> None:
        """Send what is left of the body's last part, waiting for the client."""
        with self._writing:
            data, self._owed = self._owed, b""
            self._send_whole(data, 0)

    def _send_whole(self, data: Bytes, flags: int) -> None:
        # The socket has a time-out and is therefore non-blocking, so an event of a stream usually leaves in this one
        # system call; socket.sendall would poll for room before each write.
        try:
            sent = os.write(self.fileno(), data) if not flags else 0
        except BlockingIOError:
            sent = 0
        view = memoryview(data)
        if sent < view.nbytes:
            turns.leave()
            with self._waiting_for_reader():
                super().sendall(view[sent:], flags)

    def sendfile(self, file: _SendableFile, offset: int = 0, count: int | None = None) -> int:
        with self._waiting_for_reader():
            return super().sendfile(file, offset, count)

    @contextmanager
    def _waiting_for_reader(self) -> Iterator[None]:
        """Let this thread wait for the client, which counts as disconnected if it is too slow, or one of too many."""
        if self.never_waits:
            raise BrokenPipeError(errno.EPIPE, "the client has not read its earlier responses")
        try:
            with self._waiting.waiting(self._client, self._cut):
                yield
        except TooManySlowReaders:
            raise BrokenPipeError(errno.EPIPE, "too many clients do not read their responses") from None
        except TimeoutError:
            log.info("A client did not read its response for %g s; its connection is closed.", self._limit)
            raise BrokenPipeError(errno.EPIPE, "the client does not read its response") from None

    def _cut(self) -> None:
        """End the wait of another thread for this client."""
        with suppress(OSError):  # the client has gone
            self.shutdown(socket.SHUT_RDWR)


class Connection(TConn):  # type: ignore[misc]
    """Gunicorn's state of one connection, over a ClientSocket; `close` is idempotent.

    closed: on our side; leftover: bytes that arrived behind the request that is being served; asked_by, key_name,
    asked_model: the client of that request, as its head tells, the name of its key, and the model that its body names;
    turn: with which a thread is about to serve it.
    """

    sock: ClientSocket
    parser: Parser | None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.closed = False
        self.data_ready = True  # the intake hands over whole requests
        self.leftover = b""
        self.asked_by, self.key_name, self.asked_model = "unknown", "", ""
        self.turn: turns.Turn | None = None
        self.budget_key = budget_key_of(self.client)  # that what its peer holds is counted under

    def init(self) -> None:
        """Get ready to serve, in the thread that does."""
        if self.parser is None:
            self.parser = Parser(self.cfg, self.sock, self.client)
        super().init()

    @property
    def peer(self) -> str:
        """The address at the other end of the socket."""
        return peer_of(self.client)

    def close(self, graceful: bool = False) -> None:
        if not self.closed:
            self.closed = True
            self.sock.end_request()
            self.sock.close_now()


def peer_of(address: object) -> str:
    """Return the host of a socket's address, "unknown" where it has none."""
    return str(address[0]) if isinstance(address, tuple) else "unknown"


def budget_key_of(address: object) -> str:
    """Return the key that what this address holds is counted under: an IPv6 client's is that of its /64."""
    return caller.budget_key(caller.address_of([], peer_of(address), 0))


def _fields(head: bytes) -> list[bytes]:
    return head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")


def _filler(fields: list[bytes]) -> bytes:
    """Return what may follow this head of a response, between two events or lines of its body; b"" for nothing."""
    kind = next((field.partition(b":")[2] for field in fields if field.startswith(b"content-type:")), b"")
    filler = FILLERS.get(kind.partition(b";")[0].strip(), b"")
    if filler and CHUNKED in fields:
        return b"%X\r\n%s\r\n" % (len(filler), filler)
    return filler
