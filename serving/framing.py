"""Finds the end of one HTTP/1.1 request in the bytes of a connection, as they arrive, without a thread.

The poller feeds what it reads; once the request is whole, a thread takes it and Gunicorn's parser reads it from here.
Framing is recognised, nothing is validated: what cannot be framed is given to the parser at once, which refuses it.
Source: RFC 9112, sections 2.1, 6 and 7.1.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from enum import Enum
from io import BytesIO
from typing import IO

from edge.request_head import RequestHead, read_head

log = logging.getLogger("avito_ai.serving")

MAX_HEAD_BYTES = 64 * 1024  # the parser's own limits are lower and give the typed refusal
MAX_HEAD_LINES = 500  # likewise
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 16 * 1024
# Each chunk costs the poller and the parser microseconds, however small it is. A body may have so many chunks, and one
# more for so many bytes.
MANY_CHUNKS, BYTES_OF_A_CHUNK = 8192, 1024
SPOOL_BYTES = 1024 * 1024  # a longer request lies in a file
END_OF_HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"\d{1,18}")
NO_TOKEN = re.compile(rb"[^\r\n!-~]")  # what no request begins with, a TLS handshake for one
EXPECTATION = re.compile(rb"expect:[ \t]*100-continue[ \t]*", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class RequestBrokenOff(Exception):
    """A client has sent its last byte, and its request is not whole."""


class RequestTooSlow(Exception):
    """A request has begun, and has not arrived in the time that it has."""


class Stage(Enum):
    """How much of a request has arrived."""

    HEAD = "head"
    BODY = "body"
    WHOLE = "whole"
    BROKEN = "broken"  # cannot be framed; the parser is to refuse it
    UNSTORED = "unstored"  # could not be kept, for want of space or of a descriptor; its head alone can be read


class Framing:
    """The bytes of one request. One thread at a time: first the poller's, then the one that serves the request.

    content_length: of the body, in bytes, None for none or one that is chunked; body_received: bytes of the body so
    far, framing included. expects_continue: the client waits for an interim response before it sends the body.
    plain: the head of a POST request, where it leaves no doubt.
    """

    def __init__(self, spool_bytes: int = SPOOL_BYTES) -> None:
        self.stage = Stage.HEAD
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.body_received = 0
        self.plain: RequestHead | None = None
        self._head = bytearray()
        self._store: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=spool_bytes)
        self._chunks = _Chunks()

    @property
    def head(self) -> bytes:
        """The request line and the fields, as far as they have arrived."""
        return bytes(self._head)

    @property
    def in_plain_body(self) -> bool:
        """Whether what comes next is a body of a known length, of which only the size counts."""
        return self.stage is Stage.BODY and not self.chunked

    @property
    def http_1_1(self) -> bool:
        """True where the client speaks HTTP/1.1."""
        return self._head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")

    @property
    def unreadable(self) -> bool:
        """True where the head has no end: it is too long, or no head at all."""
        return self.stage is Stage.BROKEN and END_OF_HEAD not in self._head

    def feed(self, data: bytes) -> bytes:
        """Take bytes that arrived. Return what follows the end of the request: the beginning of the next one."""
        if self.stage is Stage.HEAD:
            data = self._feed_head(data)
        if self.stage is not Stage.BODY or not data:
            return data
        taken = self._chunks.feed(data) if self.chunked else min(len(data), self._missing)
        if taken is None:
            self.stage, taken = Stage.BROKEN, len(data)
        self.body_received += taken
        if not self._kept(data[:taken]):
            return b""
        if self._chunks.complete or (not self.chunked and not self._missing):
            self.stage = Stage.WHOLE
        return data[taken:]

    def rewind(self, behind_head: bool = False) -> None:
        """Start to read what has arrived, or its body alone."""
        self._store.seek(len(self._head) if behind_head else 0)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of what has arrived, b"" at the end of it, and once it is closed."""
        return b"" if self._store.closed else self._store.read(size)

    def body(self, most: int) -> bytes:
        """Return the body as it has arrived, b"" for one of more than `most` bytes."""
        if self.body_received > most:
            return b""
        self._store.seek(len(self._head))
        return self._store.read(most)

    def close(self) -> None:
        """Release the memory, or the file."""
        with contextlib.suppress(OSError):  # what was not written yet is not needed any more
            self._store.close()

    @property
    def _missing(self) -> int:
        return (self.content_length or 0) - self.body_received

    def _kept(self, data: bytes) -> bool:
        """Keep bytes of the body; False where that cannot be done."""
        try:
            self._store.write(data)
            self._store.flush()  # here, and not when the request is read
        except OSError as error:
            log.warning("A request body cannot be kept in a file: %s", error.strerror)
            self.close()
            self._store = BytesIO(self._head)
            self.stage = Stage.UNSTORED
        return self.stage is not Stage.UNSTORED

    def _feed_head(self, data: bytes) -> bytes:
        """Take bytes of the head; return what follows it."""
        searched = max(0, len(self._head) - len(END_OF_HEAD) + 1)
        self._head += data
        end = self._head.find(END_OF_HEAD, searched)
        if end < 0:
            if NO_TOKEN.match(self._head) or self._has_bare_line_feed(searched) or len(self._head) > MAX_HEAD_BYTES:
                self._store.write(self._head)
                self.stage = Stage.BROKEN
            return b""
        rest = bytes(self._head[end + len(END_OF_HEAD) :])
        del self._head[end + len(END_OF_HEAD) :]
        self.stage = self._frame()
        self._store.write(self._head)
        return rest

    def _has_bare_line_feed(self, start: int) -> bool:
        """Return whether a line ends without a carriage return, from a position on; counted, as that is fastest."""
        line_feeds = self._head.count(b"\n", start)
        return bool(line_feeds) and line_feeds != self._head.count(b"\r\n", max(0, start - 1))

    def _frame(self) -> Stage:
        """Read from the fields how long the body is; an expectation is met by the intake, and taken out."""
        read = self.plain = read_head(bytes(self._head)) if self._head.startswith(b"POST /") else None
        if read is None or read.has("expect"):
            return self._frame_by_lines()
        self.chunked = read.has("transfer-encoding")
        if read.has("content-length"):
            self.content_length = int(read.get("content-length"))
        return Stage.BODY if self.chunked or self.content_length else Stage.WHOLE

    def _frame_by_lines(self) -> Stage:
        """Do so for any head, also for one that the parser may refuse."""
        if self._head.count(b"\n") > MAX_HEAD_LINES:
            return Stage.BROKEN
        self._take_expectation()
        lengths, codings = [], []
        for line in bytes(self._head).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            match name.strip().lower():
                case b"content-length":
                    lengths.append(value.strip())
                case b"transfer-encoding":
                    codings.append(value.strip().lower())
        if codings:
            self.chunked = codings == [b"chunked"] and not lengths
            return Stage.BODY if self.chunked else Stage.BROKEN
        if not lengths:
            return Stage.WHOLE
        if len(lengths) > 1 or not LENGTH.fullmatch(lengths[0]):
            return Stage.BROKEN
        self.content_length = int(lengths[0])
        return Stage.BODY if self.content_length else Stage.WHOLE

    def _take_expectation(self) -> None:
        """Take the expectation out, as a whole line that is one: any other is for the parser to refuse.

        Source: RFC 9110, section 10.1.1.
        """
        request_line, *lines = bytes(self._head).split(b"\r\n")
        others = [line for line in lines if not EXPECTATION.fullmatch(line)]
        expects = len(others) < len(lines)
        self.expects_continue = expects and self.http_1_1  # who speaks HTTP/1.0 knows no interim response
        if expects:
            self._head = bytearray(b"\r\n".join([request_line, *others]))
            self.plain = read_head(bytes(self._head)) if self.plain is not None else None


class _Chunks:
    """Follows a chunked body. `complete` once its last chunk and its trailers have arrived."""

    def __init__(self) -> None:
        self.complete = False
        self._left = 0  # bytes of the present chunk that are missing, its line end included
        self._number = self._bytes = 0  # of the chunks so far
        self._line = bytearray()
        self._trailers: bytearray | None = None

    def feed(self, data: bytes) -> int | None:
        """Return how many of the bytes belong to the body, None where they are not chunks."""
        position = 0
        while position < len(data) and not self.complete:
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            end = data.find(b"\n", position)
            line_end = len(data) if end < 0 else end + 1
            self._line += data[position:line_end]
            position = line_end
            if len(self._line) > MAX_CHUNK_LINE_BYTES:
                return None
            if end >= 0 and not self._take_line():
                return None
        return position

    def _take_line(self) -> bool:
        """Act on a whole line; False where it is none of a chunked body."""
        line, self._line = bytes(self._line), bytearray()
        if not line.endswith(b"\r\n"):
            return False
        if self._trailers is not None:
            self._trailers += line
            self.complete = line == b"\r\n"
            return len(self._trailers) <= MAX_TRAILER_BYTES
        size = line.split(b";", 1)[0].strip()
        if not CHUNK_SIZE.fullmatch(size):
            return False
        length = int(size, 16)
        if not length:
            self._trailers = bytearray()
            return True
        self._left = length + 2
        self._number += 1
        self._bytes += length
        return self._number <= MANY_CHUNKS + self._bytes // BYTES_OF_A_CHUNK
