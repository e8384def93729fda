"""Changes long texts in pieces, between which other threads may run: one call holds the interpreter lock to its end."""

from __future__ import annotations

from collections.abc import Iterator

PIECE = 256 * 1024  # characters


def utf8(text: str) -> bytes:
    """Return a text in UTF-8. Raises UnicodeEncodeError for half a character."""
    return b"".join(piece.encode() for piece in _pieces(text))


def with_line_feeds(text: str) -> str:
    """Return a text with LF in place of each CR LF."""
    return "".join(piece.replace("\r\n", "\n") for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    """Yield what a text is made of; no line end is divided."""
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text) and text[end - 1] == "\r":
            end -= 1
        yield text[start:end]
        start = end
