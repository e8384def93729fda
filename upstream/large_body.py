"""The JSON of a request, as bytes where it is small; what is large is written while it is sent.

Writing a value keeps the interpreter lock for all of it, and so does base64: hence a large body is made in pieces,
between which other threads and other tasks run. It is never there as a whole. It refers to the values of its request,
which the answers of one request share, images included, and each attempt writes it anew.
"""

from __future__ import annotations

import asyncio
import json
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

SMALL = 168 * 1024  # weight of a body that is written at once; with an escape for each character, a megabyte
AT_ONCE = 16 * 1024  # weight of a part of a large one that is written at once
VALUE_WEIGHT = 8  # of a value, beside the characters of a string
STRING_PIECE = 64 * 1024  # characters
IMAGE_PIECE = 96 * 1024  # bytes; a multiple of three, which base64 writes without padding
CHUNK = 128 * 1024  # bytes from which on what has been written is sent


class DataUrl:
    """The address of an image that consists of its bytes (RFC 2397). Its length is that of its text."""

    def __init__(self, media_type: str, data: bytes) -> None:
        self._head, self._data = f"data:{media_type};base64,".encode(), data

    def __len__(self) -> int:
        return len(self._head) + 4 * -(-len(self._data) // 3)

    def __str__(self) -> str:
        return b"".join(self.pieces()).decode()

    def pieces(self) -> Iterator[bytes]:
        """Yield the text, which needs no escapes in JSON."""
        yield self._head
        data = memoryview(self._data)
        for start in range(0, len(data), IMAGE_PIECE):
            yield b2a_base64(data[start : start + IMAGE_PIECE], newline=False)


class LargeBody(aiohttp.Payload):
    """A body that is written while it is sent, with a known length, as often as it is sent. values: what it has."""

    _autoclose = True  # nothing is open

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values, content_type="application/json")
        self._size = sum(map(len, _parts(values)))

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes."""
        held = bytearray()
        for piece in pieces(self._value):
            held += piece
            if len(held) >= CHUNK:
                yield bytes(held)
                held.clear()
        if held:
            yield bytes(held)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self.chunks()).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for chunk in self.chunks():
            await writer.write(chunk)
            await asyncio.sleep(0)  # a connection with room for it all leaves no turn to others


def written(values: dict[str, Any]) -> bytes | LargeBody:
    """Return JSON without white space, in UTF-8 with a question mark for what has no code in it.

    values: with strings as the names of all members, and DataUrl for images.
    """
    return _json(values) if _weight(values, SMALL) <= SMALL else LargeBody(values)


def pieces(value: Any) -> Iterator[bytes]:
    """Yield the JSON of a value in pieces, the same as `written` returns."""
    for part in _parts(value):
        yield from part.pieces() if isinstance(part, DataUrl) else (part,)


def _shown(value: Any) -> str:
    if not isinstance(value, DataUrl):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return str(value)


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_shown)


def _json(value: Any) -> bytes:
    return _encoder.encode(value).encode("utf-8", "replace")


def _parts(value: Any) -> Iterator[bytes | DataUrl]:
    """Yield the JSON of a value; images are left to be written, since their lengths are known."""
    if isinstance(value, DataUrl):
        yield from (b'"', value, b'"')
    elif _weight(value, AT_ONCE) <= AT_ONCE:
        yield _json(value)
    elif isinstance(value, str):
        yield b'"'
        for start in range(0, len(value), STRING_PIECE):
            yield _json(value[start : start + STRING_PIECE])[1:-1]
        yield b'"'
    else:
        opening, closing = (b"{", b"}") if isinstance(value, dict) else (b"[", b"]")
        for parts in _members(value):
            yield opening
            yield from parts
            opening = b","
        yield closing


def _members(value: dict[str, Any] | list[Any] | tuple[Any, ...]) -> Iterator[Iterable[bytes | DataUrl]]:
    """Yield what is written of the members of an object, or of an array; small ones together."""
    if isinstance(value, dict):
        for group in _groups(value.items()):
            if len(group) > 1:
                yield (_json(dict(group))[1:-1],)
            else:
                ((name, member),) = group
                yield chain(_parts(name), (b":",), _parts(member))
    else:
        for group in _groups(("", member) for member in value):
            members = [member for _, member in group]
            yield (_json(members)[1:-1],) if len(members) > 1 else _parts(members[0])


def _groups(members: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yield members in groups that are written at once; a large one is alone."""
    group: list[tuple[str, Any]] = []
    weight = 0
    for name, member in members:
        own = len(name) + _weight(member, AT_ONCE)
        if group and weight + own > AT_ONCE:
            yield group
            group, weight = [], 0
        group.append((name, member))
        weight += own
    if group:
        yield group


def _weight(value: Any, most: int) -> int:
    """Return what a value weighs, or some number above `most`: more is not counted."""
    if isinstance(value, str | DataUrl):
        return VALUE_WEIGHT + len(value)
    weight = VALUE_WEIGHT
    if isinstance(value, dict):
        for name, member in value.items():
            weight += len(name) + _weight(member, most - weight)
            if weight > most:
                break
    elif isinstance(value, list | tuple):
        for member in value:
            weight += _weight(member, most - weight)
            if weight > most:
                break
    return weight
