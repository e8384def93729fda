"""Writes JSON whose strings may be as long as an image, without holding the interpreter lock for all of one.

An encoder in C holds the lock for a whole value. So strings are encoded in pieces, between which other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from routes.sse import compact, quoted

PIECE = 64 * 1024  # characters
ALL = 1_000_000  # levels


def json_bytes(value: Any, levels: int = ALL) -> bytes:
    """Return a value as compact JSON in UTF-8, as `compact` writes it. levels: as `pieces` takes it."""
    return b"".join(piece.encode() for piece in pieces(value, levels))


def pieces(value: Any, levels: int = ALL) -> Iterator[str]:
    """Yield the JSON of a value in pieces.

    levels: of objects and arrays that are taken apart, which takes ten times as long as encoding them at once; what is
    below has to be small.
    """
    match value:
        case str():
            yield from _string(value)
        case Mapping() if levels:
            separator = "{"
            for name, item in value.items():
                yield f"{separator}{quoted(name)}:"
                yield from pieces(item, levels - 1)
                separator = ","
            yield "}" if value else "{}"
        case Sequence() if levels:
            separator = "["
            for item in value:
                yield separator
                yield from pieces(item, levels - 1)
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
