"""Request bodies with a content coding (RFC 9110, section 8.4.1), decompressed while they are read.

A few bytes may decompress into any number. So a body is decompressed in pieces, each counted in the budget of bodies,
and whoever reads it stops at the route's limit, which therefore holds for what comes out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import IO

from flask import Request
from werkzeug.wsgi import get_input_stream

from edge.gate import growing_body
from engine.errors import Message, Overloaded, ValidationError

PIECE_BYTES = 64 * 1024  # decompressed at once
MAX_MEMBERS = 4096  # of a gzip file, each of which takes time even if it is empty
ANY_HEADER = zlib.MAX_WBITS | 32  # of gzip or zlib
NO_HEADER = -zlib.MAX_WBITS
BODIES_FULL = Message("bodies_full", "Too many large requests are being read; try again later.")
BROKEN = "The request body is not valid {coding} data."


def coding_of(request: Request) -> str | None:
    """Return the content coding of a body, None for one that is as it is."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    return None if coding in ("", "identity") else coding


def decompress(request: Request, coding: str) -> None:
    """Have the request's body read decompressed, its maximum length being that of either. coding: one of CODINGS."""
    environ = request.environ
    raw = get_input_stream(environ, max_content_length=request.max_content_length)
    environ["wsgi.input"] = Decompressed(raw, coding, growing_body(request))
    environ["wsgi.input_terminated"] = True  # by the end of the data, its length is not known
    environ.pop("CONTENT_LENGTH", None)


class Decompressed:
    """A stream of decompressed bytes. grow: asked for room for more of them, which it may not have.

    Reading raises ValidationError for broken data, Overloaded where there is no room.
    """

    def __init__(self, raw: IO[bytes], coding: str, grow: Callable[[int], bool]) -> None:
        self._raw, self._coding, self._grow = raw, coding, grow
        self._decoder: zlib._Decompress | None = None
        self._members = 0
        self._ahead = b""  # compressed bytes that have been read

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE_BYTES), b""))
        try:
            piece = self._next(min(size, PIECE_BYTES)) if size else b""
        except zlib.error:
            raise self._broken() from None
        if not self._grow(len(piece)):
            raise Overloaded(BODIES_FULL)
        return piece

    def _next(self, size: int) -> bytes:
        """Return the next bytes, b"" at the end. Raises ValidationError where the data ends too early."""
        while True:
            self._ahead = self._ahead or self._raw.read(PIECE_BYTES)
            if self._decoder is None or self._decoder.eof:
                if not self._ahead and self._members:
                    return b""
                self._decoder = self._new_decoder()
            piece = self._decoder.decompress(self._ahead, size)
            ended = not self._ahead
            self._ahead = self._decoder.unconsumed_tail or self._decoder.unused_data
            if piece:
                return piece
            if ended and not self._decoder.eof:
                raise self._broken()

    def _new_decoder(self) -> zlib._Decompress:
        self._members += 1
        if self._members > MAX_MEMBERS or (self._members > 1 and self._coding == "deflate"):
            raise self._broken()
        # The standard's deflate has zlib's header; some clients send it without. Its first byte tells.
        bare = self._coding == "deflate" and self._ahead[:1] and self._ahead[0] & 0x0F != zlib.DEFLATED
        return zlib.decompressobj(NO_HEADER if bare else ANY_HEADER)

    def _broken(self) -> ValidationError:
        return ValidationError(BROKEN.format(coding=self._coding))
