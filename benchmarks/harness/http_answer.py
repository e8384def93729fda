"""Bodies of generation answers: server-sent events, and what the two dialects say in them.

Each reader is fed the bytes of the body as they arrive, together with their time of arrival.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


class BadAnswer(Exception):
    """The server's answer is not a complete success; the message says why."""


class EventParser:
    """Server-sent events (HTML standard, 9.2): `feed` returns the data of each complete event."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        """Add received bytes; comments and other fields are skipped."""
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
class Received:
    """The content of a body so far. arrivals: when text arrived, on the caller's clock; tokens: of the whole answer."""

    arrivals: list[float] = field(default_factory=list)
    tokens: int | None = None
    complete: bool = False


class _Stream:
    """A streamed answer; subclasses read the events of their dialect."""

    unfinished = "the stream ended early"

    def __init__(self) -> None:
        self.received = Received()
        self._events = EventParser()

    def feed(self, body: bytes, now: float) -> None:
        """Add a part of the body. Raises BadAnswer on an error event."""
        for event in self._events.feed(body):
            self._read(event, now)

    def end(self) -> None:
        """Check that the stream was complete. Raises BadAnswer."""
        if not self.received.complete:
            raise BadAnswer(self.unfinished)

    def _read(self, event: bytes, now: float) -> None:
        raise NotImplementedError


class ChatStream(_Stream):
    """An OpenAI chat completion. Not every server sends [DONE]; a finish reason completes an answer as well."""

    unfinished = "the stream ended without a finish"

    def _read(self, event: bytes, now: float) -> None:
        if event == b"[DONE]":
            self.received.complete = True
            return
        said = json.loads(event)
        if said.get("error"):
            raise BadAnswer("the stream carried an error")
        if said.get("usage"):
            self.received.tokens = said["usage"]["completion_tokens"]
        choices = said.get("choices") or ()
        self.received.complete |= any(choice.get("finish_reason") for choice in choices)
        if any((choice.get("delta") or {}).get("content") for choice in choices):
            self.received.arrivals.append(now)


class OwnStream(_Stream):
    """A stream of /api/v1: pieces of text, then the whole answer with its token counts."""

    unfinished = "the stream ended without its figures"

    def _read(self, event: bytes, now: float) -> None:
        said = json.loads(event)
        if said.get("error"):
            raise BadAnswer("the stream carried an error")
        if said.get("success"):
            self.received.tokens = said["data"]["generated_tokens"]
            self.received.complete = True
        elif said.get("text"):
            self.received.arrivals.append(now)


class WholeJson:
    """An answer of /api/v1 in one piece; the time of its first token is unknown."""

    def __init__(self) -> None:
        self.received = Received()
        self._body = b""

    def feed(self, body: bytes, now: float) -> None:
        """Add a part of the body."""
        self._body += body

    def end(self) -> None:
        """Parse the whole body. Raises BadAnswer unless it is a success."""
        answer = json.loads(self._body)
        if not answer.get("success"):
            raise BadAnswer("the answer is not a success")
        self.received.tokens = answer["data"]["generated_tokens"]
        self.received.complete = True


Answer = ChatStream | OwnStream | WholeJson
