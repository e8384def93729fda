"""Reads a JSON text of a client without holding the interpreter lock for long, whatever the text.

A parser in C holds the lock for all of a text. So a long text is first counted: the values outside of its strings are
bounded, and so is all that is not a long image; beyond it nothing is parsed. Then its long strings are taken out,
decoded in pieces, up to the length of the largest image, and put back into what was parsed of the rest.

Strict JSON (RFC 8259), with names that are unique (RFC 7493, section 2.3) and values as `json_values` checks them.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.errors import Message, PayloadTooLarge, ValidationError
from engine.text import images
from routes.json_values import check_values, is_text, shown_name

SHORT_TEXT = 64 * 1024  # bytes that are parsed as they are
LONG_STRING = 16 * 1024  # bytes
FIND_BYTES = 1024 * 1024  # of a text that are searched at once
MAX_VALUES = 100_000
MAX_CONTAINERS = 20_000  # objects and lists; each costs as much as ten numbers
MAX_TEXT_BYTES = 8 * 1024 * 1024
MOST_ESCAPED = 32  # one of so many characters of an image is escaped at most: the end of a line
MAX_ENCODED_IMAGE = 17 * (images.MAX_IMAGE_BYTES // 12 + 1)  # characters of base64, in lines of 32 at least
MAX_STRING = MAX_ENCODED_IMAGE + 1024  # with what precedes it in its URL; any other text is bounded by `JsonLimits`
MAX_DEPTH = 100
MAX_DOUBLE = int(sys.float_info.max)
MAX_DIGITS = 400  # of an integer; a double has at most 309
MAX_NUMBER = 1100  # characters of one that is read; written out in full, the smallest double takes 1,077
LARGEST_INTEGER = 2**63  # that a number with a point or an exponent is read as
TOO_LARGE = Message("json_too_large", "The request has more text or more values than any valid request.")
TOO_DEEP = "The request body is nested too deeply."

IMAGE = b"data:"
# The name of the field that holds an image in base64 alone, with white space around the colon, and the opening quote.
DATA_NAME, SPACES = b'"data":"', 16
DATA_FIELD = re.compile(rb'"data"\s*:\s*"\Z')
# Escapes inside a string, each with what follows it; bounded, so that one match holds the lock for a moment only.
ESCAPES = re.compile(rb"(?:\\.[^\"\\]{0,1024}+){1,1024}+", re.DOTALL)
# A piece of a string that ends neither within an escape nor between the two of a surrogate pair.
PIECE = re.compile(
    rb"(?:[^\\]{1,64}+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|\\){1,1024}+",
    re.DOTALL,
)
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a text may have. values: outside of strings; text_bytes: of everything but long images."""

    values: int = MAX_VALUES
    containers: int = MAX_CONTAINERS
    text_bytes: int = MAX_TEXT_BYTES


USUAL = JsonLimits()


def check_beginning(text: bytearray, limits: JsonLimits = USUAL) -> None:
    """Refuse a text that is beyond the limits whatever follows this beginning, with the error that `read_json` raises.

    Raises PayloadTooLarge, ValidationError for one that is nested too deeply.
    """
    quote = text.rfind(b'"', len(text) - len(IMAGE))  # of a string that may yet turn out to be an image
    try:
        _long_strings(text if quote < 0 else text[:quote], limits)
    except ValueError:  # it ends within a string
        pass
    except RecursionError as error:
        raise ValidationError(TOO_DEEP) from error


def read_json(text: bytes | bytearray, limits: JsonLimits = USUAL, check_strings: bool = True) -> Any:
    """Return the value of a JSON text.

    check_strings: False to leave strings with lone surrogates to the caller. Raises ValidationError for a text that is
    no JSON and as `check_values` does, PayloadTooLarge for a long text beyond the limits.
    """
    try:
        strings = _long_strings(text, limits) if len(text) > SHORT_TEXT else []
        return _parsed(text, strings, limits.text_bytes, check_strings)
    except UnicodeDecodeError as error:
        raise ValidationError(Message("body_not_utf8", "The request body is not valid UTF-8.")) from error
    except ValueError as error:
        raise ValidationError("The request body is not valid JSON.") from error
    except RecursionError as error:
        raise ValidationError(TOO_DEEP) from error


def _parsed(text: bytes | bytearray, strings: list[tuple[int, int]], most: int, check_strings: bool) -> Any:
    """Return the value of a text. strings: where its long strings begin and end; most: bytes of those of no ASCII."""
    held, numbers = _Held(most), _Numbers()
    rest, position = [], 0
    for start, end in strings:
        rest += [text[position:start], held.add(_decoded(text, start, end), end - start).encode()]
        position = end
    short = b"".join([*rest, text[position:]]) if rest else text
    value = json.loads(
        short.decode("utf-8-sig"),
        object_pairs_hook=held.object,
        parse_int=numbers.integer,
        parse_float=numbers.number,
        parse_constant=numbers.constant,
    )
    if isinstance(value, list | str):
        value = held.restored(value)
    if short.count(b"{") + short.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    if numbers.infinite or held.surrogates or SURROGATE_ESCAPE.search(short):
        check_values(value, check_strings)
    return value


class _Held:
    """The long strings of one text, each with a name that stands for it while the rest is parsed.

    most: bytes of those that are no ASCII, which no image is: a single character makes a string four times as large.
    surrogates: whether any of them has a lone surrogate.
    """

    def __init__(self, most: int) -> None:
        self.surrogates, self._left = False, most
        self._mark = secrets.token_hex(16)
        self._strings: dict[str, str] = {}

    def add(self, pieces: list[str], size: int) -> str:
        """Keep a string of so many bytes; return its name. Raises PayloadTooLarge."""
        self._left -= 0 if all(map(str.isascii, pieces)) else size
        if self._left < 0:
            raise PayloadTooLarge(TOO_LARGE)
        name = f"{self._mark}{len(self._strings)}"
        self._strings[name] = "".join(pieces)
        self.surrogates = self.surrogates or not all(map(is_text, pieces))
        return name

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object of these fields. Raises ValidationError for a name that is repeated."""
        found: dict[str, Any] = {}
        for key, value in pairs:
            name = self._strings.get(key, key) if self._strings else key
            if name in found:
                raise repeated(shown_name(name))
            found[name] = self.restored(value) if self._strings else value
        return found

    def restored(self, value: Any) -> Any:
        """Return a value, and those of its lists, with the strings that the names stand for."""
        if isinstance(value, str):
            return self._strings.get(value, value)
        return [self.restored(item) for item in value] if isinstance(value, list) and self._strings else value


def _long_strings(text: bytes | bytearray, limits: JsonLimits) -> list[tuple[int, int]]:
    """Return where each long string begins and ends. Raises PayloadTooLarge for a text beyond the limits."""
    found: list[tuple[int, int]] = []
    position = 0
    values = containers = strings = size = 0
    while True:
        start = _find(text, b'"', position, len(text)) + 1 or len(text) + 1
        size += start - position
        if size <= limits.text_bytes:
            values += text.count(b",", position, start)
            containers += text.count(b"[", position, start) + text.count(b"{", position, start)
        if containers > limits.containers:
            ended = text.count(b"]", 0, start) + text.count(b"}", 0, start)
            raise RecursionError if containers - ended > MAX_DEPTH else PayloadTooLarge(TOO_LARGE)
        if size > limits.text_bytes or values > limits.values:
            raise PayloadTooLarge(TOO_LARGE)
        if start > len(text):
            return found
        image = _is_image(text, start)
        end = _end_of_string(text, start, len(text) if image else start + limits.text_bytes - size)
        image = image and text.count(b"\\", start, end) <= (end - start) // MOST_ESCAPED  # as base64 is written
        strings += 1
        size += 0 if image and end - start > LONG_STRING else end - start  # a short one is parsed as text is
        if size > limits.text_bytes or strings > 2 * (limits.values + limits.containers):
            raise PayloadTooLarge(TOO_LARGE)
        if end - start > LONG_STRING:
            found.append((start, end))
        position = end + 1


def _is_image(text: bytes | bytearray, start: int) -> bool:
    """Return whether the string that begins at `start` is taken for an image: a data URL, or any in a field `data`."""
    if text[start : start + len(IMAGE)].lower() == IMAGE:
        return True
    return DATA_FIELD.search(text, max(0, start - len(DATA_NAME) - SPACES), start) is not None


def _end_of_string(text: bytes | bytearray, start: int, most: int) -> int:
    """Return where the string that begins at `start` has its closing quote.

    Raises PayloadTooLarge where there is none up to `most`, ValueError where there is none at all.
    """
    quote = -1
    while True:
        if quote < start:
            quote = _find(text, b'"', start, most + 1)
            if quote < 0:
                raise PayloadTooLarge(TOO_LARGE) if most < len(text) else ValueError
        escape = _find(text, b"\\", start, quote)
        if escape < 0:
            return quote
        start = _end_of_escapes(text, escape)


def _find(text: bytes | bytearray, byte: bytes, start: int, end: int) -> int:
    """Return where a byte is first in a part of a text, -1 if nowhere; in steps, between which other threads run."""
    while True:
        stop = start + FIND_BYTES
        if stop >= end:
            return text.find(byte, start, end)
        if (found := text.find(byte, start, stop)) >= 0:
            return found
        start = stop


def _end_of_escapes(text: bytes | bytearray, start: int) -> int:
    """Return a position behind the escape at `start` that no escape includes. Raises ValueError for half of one."""
    match = ESCAPES.match(text, start)
    if match is None:
        raise ValueError
    return match.end()


def _decoded(text: bytes | bytearray, start: int, end: int) -> list[str]:
    """Return the pieces of the string between two quotes.

    Raises ValueError where it is none of JSON, PayloadTooLarge for one of more than MAX_STRING characters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces, left = [], MAX_STRING
    while start < end:
        match = PIECE.match(text, start, end)
        assert match is not None  # any byte begins a piece
        start = match.end()
        pieces.append(json.loads(f'"{decoder.decode(match[0], start == end)}"'))
        left -= len(pieces[-1])
        if left < 0:
            raise PayloadTooLarge(images.TOO_LARGE)
    return pieces


def repeated(name: str) -> ValidationError:
    """Return the error for a field that was sent twice."""
    if name == "image":
        return ValidationError(Message("image_repeated", "image was sent more than once."), name)
    return ValidationError(Message("field_repeated", "{name} was sent more than once.", name=name), name)


def _check_depth(value: Any) -> None:
    """Raise RecursionError for a value of more than MAX_DEPTH levels: those who use it may be recursive."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise RecursionError


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class _Numbers:
    """Reads the numbers of one text. infinite: whether one was no number, or more than a double can hold."""

    def __init__(self) -> None:
        self.infinite = False

    def integer(self, text: str) -> int | float:
        """Return an integer. Python code lets other threads run within a long list; a long number takes too long."""
        return self.number(text) if len(text) > MAX_DIGITS or abs(value := int(text)) > MAX_DOUBLE else value

    def number(self, text: str) -> float | int:
        """Return a number; 5.0 is the integer 5, as in JSON Schema. 1e308 stays as short as it was written."""
        value = float(text) if len(text) <= MAX_NUMBER else math.inf
        self.infinite = self.infinite or not math.isfinite(value)
        return int(value) if abs(value) <= LARGEST_INTEGER and value.is_integer() else value

    def constant(self, name: str) -> float:
        """Return what NaN, Infinity or -Infinity stands for; none of them is JSON."""
        self.infinite = True
        return float(name)
