"""Reads forms of the type application/x-www-form-urlencoded without holding the interpreter lock for long.

The standard library's parser takes a value apart in one call for each of its escapes: a value of a million of them
would stop every other thread until the last. Here a long one is decoded in pieces.
Source: URL Standard, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

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
    return b"".join(unquote_to_bytes(piece.replace(b"+", b" ")) for piece in pieces(text)).decode()


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
