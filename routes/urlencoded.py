"""Reads forms of the type application/x-www-form-urlencoded without holding the interpreter lock for long.

The standard library's parser takes a value apart at each `%`: a value of a million of them would stop every other
thread for long. Here escapes that stand side by side are decoded together, and a long value in pieces.
Source: URL Standard, sections 1.3 and 5.1.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Iterator

ESCAPES = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")  # any other % stands for itself
PIECE_BYTES = 8 * 1024
ESCAPE_BYTES = 3  # `%` and two digits


def pairs(body: bytes | bytearray, most: int) -> list[tuple[str, str]]:
    """Return the names and values of a form. Raises ValueError for more than `most`, or for text that is no UTF-8."""
    body.decode()  # an escape may not complete a character that the body itself has begun
    if body.count(b"&") >= most:
        raise ValueError(f"more than {most} fields")
    found = []
    for field in bytes(body).split(b"&"):
        name, _, value = field.partition(b"=")
        if field:
            found.append((decoded(name), decoded(value)))
    return found


def decoded(text: bytes) -> str:
    """Return the text of a name or a value. Raises UnicodeDecodeError."""
    return b"".join(ESCAPES.sub(_bytes, piece.replace(b"+", b" ")) for piece in pieces(text)).decode()


def _bytes(escapes: re.Match[bytes]) -> bytes:
    return unhexlify(escapes[0].replace(b"%", b""))


def pieces(text: bytes) -> Iterator[bytes]:
    """Yield pieces of at most PIECE_BYTES that end within no escape."""
    start = 0
    while start < len(text):
        end = start + PIECE_BYTES
        escape = text.rfind(b"%", end - ESCAPE_BYTES + 1, end)
        if 0 <= escape and end < len(text):
            end = escape
        yield text[start:end]
        start = end
