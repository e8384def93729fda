"""Server-sent events, with little work for each piece of text.

What all events of a choice have in common is encoded once; for each piece, only its text is encoded. The WSGI server
iterates over the events: each is one `bytes` and one write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from typing import Any

from flask import Response, request

from edge import turns
from edge.services import services
from edge.stream_writer import Source
from telemetry.logs import request_id_var

KEEP_ALIVE_SECONDS = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}


# JSON may have them as they are, but clients that read by lines split there, as Python's `splitlines` does.
LINE_ENDS = {end: f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


def plain(value: Any) -> str:
    """Return a value as JSON without white space and without escapes, as Flask writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """Return a value as JSON without white space, on one line, and without escapes that this does not require."""
    return _on_one_line(plain(value))


def quoted(text: str) -> str:
    """Return a text as JSON, as `compact` does."""
    return _on_one_line(encode_basestring(text))


def _on_one_line(text: str) -> str:
    if text.isascii():
        return text
    for end, escape in LINE_ENDS.items():
        text = text.replace(end, escape)
    return text


def event(value: Any, name: str = "") -> bytes:
    """Return one event. name: its type, for clients that dispatch by it."""
    return f"{_named(name)}data: {compact(value)}\n\n".encode()


def comment(text: str) -> bytes:
    """Return a comment, which clients ignore; the text is one line."""
    return f": {text}\n\n".encode()


class TextEvents:
    """The events of one choice, which differ in one text alone.

    chunk: the object of an event with HOLE as that text; name: as `event` takes it.
    """

    HOLE = "\ue000"

    def __init__(self, chunk: Any, name: str = "") -> None:
        head, tail = compact(chunk).split(f'"{self.HOLE}"')
        self._head, self._tail = f"{_named(name)}data: {head}", f"{tail}\n\n"

    def __call__(self, text: str) -> bytes:
        return f"{self._head}{quoted(text)}{self._tail}".encode()


def _named(name: str) -> str:
    return f"event: {name}\n" if name else ""


class EventStream:
    """An iterable of events for the WSGI server, which closes it in any case.

    events: yields the events; on_close: called once, also if the iteration never started. source: what each event is
    a part of, if that is one answer: then at least one event, which may be empty, is yielded for each part, and another
    thread than the request's may write them. idle: seconds without a part after which a keep-alive is yielded.
    """

    def __init__(
        self,
        events: Iterator[bytes],
        on_close: Callable[[], None],
        source: Source | None = None,
        idle: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._events, self._on_close = events, on_close
        self._source, self._idle = source, idle
        self._written = events
        self._request_id = request_id_var.get()

    def __iter__(self) -> Iterator[bytes]:
        # The request's context has ended; log lines of the stream still need its id.
        request_id_var.set(self._request_id)
        if self._written is self._events:
            turns.leave()
        return self._written

    def close(self) -> None:
        """End the stream, finished or not."""
        try:
            for each in (self._written, self._events):  # what writes them first: it listens to their source
                if (closing := getattr(each, "close", None)) is not None:
                    closing()
        finally:
            self._on_close()
            request_id_var.set("-")

    def response(self, content_type: str = "text/event-stream; charset=utf-8") -> Response:
        """Return the response to the current request with this body."""
        turns.take()  # for its head
        sink = request.environ.get("gunicorn.socket")
        if self._source is not None and sink is not None:
            self._written = services().stream_writer.written(self._events, self._source, sink, self._idle)
        return Response(self, headers=HEADERS, content_type=content_type, direct_passthrough=True)
