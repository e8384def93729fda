"""Answers as they come off a socket: HTTP/1.1 framing, server-sent events, and what the two dialects say in them.

Parsers of a few lines, fed with whatever bytes arrived, so that the measuring client costs next to nothing and takes
the time at the socket itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


class BadAnswer(Exception):
    """The server's answer is not what was asked for; the message says how."""


class HttpParser:
    """One HTTP/1.1 answer (RFC 9112). `feed` returns the body's bytes without their framing."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.done = False
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None  # bytes left of the body, or of the chunk

    def feed(self, data: bytes) -> bytes:
        """Take in what arrived. Raises BadAnswer where it is no HTTP."""
        self._buffer += data
        if self.status is None and not self._read_head():
            return b""
        return self._read_chunks() if self._chunked else self._read_plain()

    def end(self) -> None:
        """Take in that the connection was closed. Raises BadAnswer where something is missing."""
        self.done = self.done or (self.status is not None and not self._chunked and self._left is None)
        if not self.done:
            raise BadAnswer("the connection closed in the middle of the answer")

    def _read_head(self) -> bool:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        first, *lines = head.split(b"\r\n")
        if not first.startswith(b"HTTP/1.") or not first[9:12].isdigit():
            raise BadAnswer("the answer is not HTTP")
        headers = {name.lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)}
        self.status, self._buffer = int(first[9:12]), rest
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        if b"content-length" in headers and not self._chunked:
            self._left = int(headers[b"content-length"])
        return True

    def _read_plain(self) -> bytes:
        body, self._buffer = self._buffer, b""
        if self._left is not None:
            self._left -= len(body)
            self.done = self._left <= 0
        return body

    def _read_chunks(self) -> bytes:
        body = b""
        while not self.done and (part := self._next_chunk()) is not None:
            body += part
        return body

    def _next_chunk(self) -> bytes | None:
        """Return one whole chunk, None where more must arrive first."""
        size, separator, rest = self._buffer.partition(b"\r\n")
        if not separator:
            return None
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            self.done = True
            return b""
        if len(rest) < length + 2:
            return None
        self._buffer = rest[length + 2 :]
        return rest[:length]


class EventParser:
    """Server-sent events (the HTML standard, 9.2): `feed` returns the data of each event that is whole."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        """Take in what arrived; comments and other fields are passed over."""
        *lines, self._buffer = (self._buffer + body).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


@dataclass
class Heard:
    """What a body has said so far. arrivals: the moments at which text came, on the caller's clock."""

    arrivals: list[float] = field(default_factory=list)
    tokens: int | None = None
    complete: bool = False


class _Stream:
    """An answer as a stream of events; what each of them says is the dialect's."""

    unfinished = "the stream ended early"

    def __init__(self) -> None:
        self.heard = Heard()
        self._events = EventParser()

    def feed(self, body: bytes, now: float) -> None:
        """Take in a part of the body. Raises BadAnswer on an error event."""
        for event in self._events.feed(body):
            self._hear(event, now)

    def end(self) -> None:
        """Check that the stream said that it was over. Raises BadAnswer."""
        if not self.heard.complete:
            raise BadAnswer(self.unfinished)

    def _hear(self, event: bytes, now: float) -> None:
        raise NotImplementedError


class ChatStream(_Stream):
    """An OpenAI chat completion. Not every server says [DONE]; a finish reason ends an answer as well."""

    unfinished = "the stream ended without a finish"

    def _hear(self, event: bytes, now: float) -> None:
        if event == b"[DONE]":
            self.heard.complete = True
            return
        said = json.loads(event)
        if said.get("error"):
            raise BadAnswer("the stream carried an error")
        if said.get("usage"):
            self.heard.tokens = said["usage"]["completion_tokens"]
        choices = said.get("choices") or ()
        self.heard.complete |= any(choice.get("finish_reason") for choice in choices)
        if any((choice.get("delta") or {}).get("content") for choice in choices):
            self.heard.arrivals.append(now)


class OwnStream(_Stream):
    """An answer of /api/v1: texts, then the whole with its figures."""

    unfinished = "the stream ended without its figures"

    def _hear(self, event: bytes, now: float) -> None:
        said = json.loads(event)
        if said.get("error"):
            raise BadAnswer("the stream carried an error")
        if said.get("success"):
            self.heard.tokens = said["data"]["generated_tokens"]
            self.heard.complete = True
        elif said.get("text"):
            self.heard.arrivals.append(now)


class WholeJson:
    """An answer of /api/v1 in one piece: when its first token was made is not known."""

    def __init__(self) -> None:
        self.heard = Heard()
        self._body = b""

    def feed(self, body: bytes, now: float) -> None:
        """Take in a part of the body."""
        self._body += body

    def end(self) -> None:
        """Read the whole. Raises BadAnswer where it is not a success."""
        answer = json.loads(self._body)
        if not answer.get("success"):
            raise BadAnswer("the answer is not a success")
        self.heard.tokens = answer["data"]["generated_tokens"]
        self.heard.complete = True


Answer = ChatStream | OwnStream | WholeJson
