"""The events of a response's stream: each has a type, which is also the event's name, and a number.

What all deltas of one part have in common is encoded once; for each delta, its number and its text are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routes.json_writing import json_bytes
from routes.sse import quoted

Delta = Callable[[str], bytes]


class Events:
    """The events of one stream, numbered from 0."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, kind: str, **fields: Any) -> bytes:
        """Return an event of a type with these fields."""
        event = {"type": kind, "sequence_number": self._number(), **fields}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), json_bytes(event))

    def deltas(self, kind: str, **fields: Any) -> Delta:
        """Return what makes the events of a type that differ in their `delta` alone."""
        head = f'event: {kind}\ndata: {{"type":{quoted(kind)},{json_bytes(fields).decode()[1:-1]},"sequence_number":'

        def delta(text: str) -> bytes:
            return f'{head}{self._number()},"delta":{quoted(text)}}}\n\n'.encode()

        return delta

    def _number(self) -> int:
        self._next += 1
        return self._next - 1


class NoEvents(Events):
    """The events of a response that is sent whole: none is built."""

    def __call__(self, kind: str, **fields: Any) -> bytes:
        return b""

    def deltas(self, kind: str, **fields: Any) -> Delta:
        return lambda text: b""
