"""Writes JSON whose strings may be as long as an image, without holding the interpreter lock for all of one.

An encoder in C holds the lock for a whole value. So strings are encoded in pieces, between which other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring as quoted
from typing import Any

from routes.sse import compact

PIECE = 64 * 1024  # characters


def json_bytes(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8, as `compact` writes it."""
    return b"".join(piece.encode() for piece in pieces(value))


def pieces(value: Any) -> Iterator[str]:
    """Yield the JSON of a value in pieces."""
    match value:
        case str():
            yield from _string(value)
        case Mapping():
            separator = "{"
            for name, item in value.items():
                yield f"{separator}{quoted(name)}:"
                yield from pieces(item)
                separator = ","
            yield "}" if value else "{}"
        case Sequence():
            separator = "["
            for item in value:
                yield separator
                yield from pieces(item)
                separator = ","
            yield "]" if value else "[]"
        case _:
            yield compact(value)


def _string(text: str) -> Iterator[str]:
    if len(text) <= PIECE:
        yield quoted(text)
        return
    yield '"'
    for start in range(0, len(text), PIECE):
        yield quoted(text[start : start + PIECE])[1:-1]
    yield '"'
