"""Base64 as clients write it (RFC 4648, RFC 2045): of either alphabet, in lines, with or without padding.

Read and written in pieces, between which other threads may run: one call would hold the interpreter lock for all of an
image.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

PIECE = 256 * 1024  # characters
PIECE_BYTES = PIECE // 4 * 3
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = b" \t\r\n\v\f"
MOST_PADDING = 2


def decoded(encoded: str, begin: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a text from `begin` on. Raises ValueError where it is no base64."""
    rest, padding = b"", 0
    for start in range(begin, len(encoded), PIECE):
        piece = encoded[start : start + PIECE].encode("ascii").translate(URL_SAFE, WHITE_SPACE)
        text = piece.rstrip(b"=")
        if (padding and text) or text.translate(None, ALPHABET):
            raise ValueError
        padding += len(piece) - len(text)
        text = rest + text
        whole = len(text) // 4 * 4
        yield binascii.a2b_base64(text[:whole])
        rest = text[whole:]
    if padding > MOST_PADDING or len(rest) == 1:
        raise ValueError
    yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4))


def encoded(data: bytes) -> str:
    """Return bytes in base64, of the usual alphabet."""
    starts = range(0, len(data), PIECE_BYTES)
    pieces = (binascii.b2a_base64(data[start : start + PIECE_BYTES], newline=False) for start in starts)
    return b"".join(pieces).decode("ascii")
