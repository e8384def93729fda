"""Writes JSON of any size without holding the interpreter lock for long.

An encoder in C holds the lock for a whole value. So what is large is encoded in pieces, between which other threads
run, and what takes long to build is built as it is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar, overload

from flask import Response

from edge.route_table import JSON
from routes.sse import compact, plain

PIECE = 64 * 1024  # characters of a string
AT_ONCE = 16 * 1024  # weight of what is encoded at once: a millisecond and less
VALUE_WEIGHT = 16  # of a value, beside the characters of a string
BUILT_WEIGHT = 8 * VALUE_WEIGHT  # of an item of a list that is built later, however large it is
BUILT_AT_ONCE = 16
NUMBERS_AT_ONCE = 1024

Item = TypeVar("Item")
Write = Callable[[Any], str]


class BuiltLater(Sequence[Item]):
    """A list whose items are made of others while it is written. Each is small, of a hundred values or so."""

    def __init__(self, sources: Sequence[Any], make: Callable[[Any], Item]) -> None:
        self._sources, self._make = sources, make

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._make(source) for source in self._sources[index]]
        return self._make(self._sources[index])


class Written:
    """A list whose items are written already: in parts, each the JSON of some without brackets. It is written once."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = deque(parts)

    def taken(self) -> Iterator[list[str]]:
        """Yield the parts, none of which is kept."""
        while self._parts:
            yield [self._parts.popleft().decode()]


class _Few(list[Item]):
    """A few small items."""


def built_later(sources: Sequence[Any], make: Callable[[Any], Item]) -> Sequence[Item]:
    """Return a list of what is made of each source, to be written here; more than a few are made only then."""
    few = len(sources) <= BUILT_AT_ONCE
    return _Few(map(make, sources)) if few else BuiltLater(sources, make)


def json_bytes(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8, as `compact` writes it."""
    return b"".join(piece.encode() for piece in pieces(value))


def json_response(value: Any) -> Response:
    """Return a response with a value, the same as `jsonify` does. What is large is never there as one text."""
    return in_parts([*_gathered(chain(pieces(value, plain), ["\n"]))], JSON)


def in_parts(parts: list[bytes], content_type: str) -> Response:
    """Return a response whose body is sent in parts, and never joined."""
    response = Response(parts, content_type=content_type)
    response.content_length = sum(map(len, parts))
    return response


def _gathered(written: Iterable[str]) -> Iterator[bytes]:
    """Yield pieces together, as many as are worth being sent by themselves."""
    gathered, size = list[str](), 0
    for piece in written:
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(gathered).encode()
            gathered, size = [], 0
    if gathered:
        yield "".join(gathered).encode()


def event_of(value: Any) -> bytes:
    """Return one event of a stream, the same as `sse.event` does."""
    return b"data: %b\n\n" % json_bytes(value)


def pieces(value: Any, write: Write = compact) -> Iterator[str]:
    """Yield the JSON of a value in pieces. write: encodes what is small."""
    match value:
        case BuiltLater():
            yield from _joined("[", _built(value, write), "]")
        case Written():
            yield from _joined("[", value.taken(), "]")
        case str() if len(value) > PIECE:
            yield '"'
            for start in range(0, len(value), PIECE):
                yield write(value[start : start + PIECE])[1:-1]
            yield '"'
        case dict() if _weight(value) > AT_ONCE:
            yield from _joined("{", _members(value, write), "}")
        case list() | tuple() if _weight(value) > AT_ONCE:
            yield from _joined("[", _items(value, write), "]")
        case _:
            yield write(value)


def _joined(opening: str, parts: Iterable[Iterable[str]], closing: str) -> Iterator[str]:
    separator = opening
    for part in parts:
        yield separator
        yield from part
        separator = ","
    yield closing if separator == "," else opening + closing


def _built(value: BuiltLater[Any], write: Write) -> Iterator[list[str]]:
    for start in range(0, len(value), BUILT_AT_ONCE):
        yield [write(value[start : start + BUILT_AT_ONCE])[1:-1]]


def _members(value: dict[str, Any], write: Write) -> Iterator[Iterable[str]]:
    for group in _groups(value.items()):
        if len(group) > 1:
            yield [write(dict(group))[1:-1]]
        else:
            ((name, item),) = group
            yield chain(pieces(name, write), [":"], pieces(item, write))


def _items(value: Sequence[Any], write: Write) -> Iterator[Iterable[str]]:
    if len(value) > NUMBERS_AT_ONCE and {*map(type, value)} == {int}:
        for start in range(0, len(value), NUMBERS_AT_ONCE):
            yield [write(list(value[start : start + NUMBERS_AT_ONCE]))[1:-1]]
        return
    for group in _groups(("", item) for item in value):
        if len(group) > 1:
            yield [write([item for _, item in group])[1:-1]]
        else:
            yield pieces(group[0][1], write)


def _groups(entries: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yield names and values, in groups of small ones that are written at once; a large one is alone."""
    group: list[tuple[str, Any]] = []
    weight = 0
    for name, item in entries:
        own = len(name) + _weight(item)
        if group and weight + own > AT_ONCE:
            yield group
            group, weight = [], 0
        group.append((name, item))
        weight += own
    if group:
        yield group


def _weight(value: Any, most: int = AT_ONCE) -> int:
    """Return what a value weighs, or some number above `most`: more is not counted."""
    if isinstance(value, str):
        return VALUE_WEIGHT + len(value)
    if isinstance(value, _Few):
        return VALUE_WEIGHT + BUILT_WEIGHT * len(value)
    if isinstance(value, BuiltLater | Written):
        return most + 1
    weight = VALUE_WEIGHT
    if isinstance(value, dict):
        for name, item in value.items():
            weight += len(name) + _weight(item, most - weight)
            if weight > most:
                break
    elif isinstance(value, list | tuple):
        for item in value:
            weight += _weight(item, most - weight)
            if weight > most:
                break
    return weight
