"""Reads the wire format of multipart forms (RFC 7578) at a cost that grows with their bytes, whatever stands in them.

werkzeug does that but for its searches: its patterns begin with a choice of line breaks, and are tried anew at each one
of a body. What comes before the first part, the heads of parts and what may follow a boundary are bounded here as well.
"""

from __future__ import annotations

import re

from werkzeug.datastructures import Headers
from werkzeug.sansio.multipart import BLANK_LINE_RE, Event, MultipartDecoder, NeedData, State

MAX_PREAMBLE = 1024  # bytes, with the first boundary; browsers and libraries send none
MAX_PART_HEADERS, MAX_PART_HEAD = 16, 8192  # lines, and bytes of them
MAX_PADDING = 64  # blanks behind a boundary (RFC 2046, section 5.1.1)


class Decoder(MultipartDecoder):
    """Takes the bytes of a form and gives its parts, as werkzeug's does; lines end with LF or CR LF.

    Raises ValueError for what is no form, and RequestEntityTooLarge. The heads of parts may have bytes that are no
    UTF-8, as in the name of a file, which nobody needs; each becomes U+FFFD.
    """

    def __init__(self, boundary: bytes, most_bytes: int, most_parts: int) -> None:
        super().__init__(boundary, most_bytes, max_parts=most_parts)
        # Its first character stands nowhere else in it, so that no byte is looked at twice.
        self._boundary_line = b"\n--" + boundary
        self._delimiter = re.compile(
            rb"%s(?:(--)|[^\S\r\n]{0,%d}\r?\n)" % (re.escape(self._boundary_line), MAX_PADDING)
        )
        self._longest = len(b"\r") + len(self._boundary_line) + MAX_PADDING + len(b"\r")  # that is not a whole one
        self._ends = {
            State.PREAMBLE: (self.preamble_re, MAX_PREAMBLE),
            State.PART: (BLANK_LINE_RE, MAX_PART_HEAD + len(b"\r\n\r\n")),
        }

    def next_event(self) -> Event:
        if self.state in self._ends:
            end, most = self._ends[self.state]
            if len(self.buffer) > most and end.search(self.buffer, 0, most) is None:
                raise ValueError("no boundary in the beginning, or header fields that are too long")
        return NeedData() if self._is_undecided() else super().next_event()

    def _is_undecided(self) -> bool:
        """Whether the next bytes can change how those that are there are read."""
        if self.complete:
            return False
        if self.state == State.PREAMBLE:
            return self.buffer.endswith(b"\r")  # the half of a line break
        # The line break before a content is the one before its end, where there is only one.
        return self.state == State.DATA_START and len(self.buffer) <= self._longest

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        if len(data) > MAX_PART_HEAD or len(data.splitlines()) > MAX_PART_HEADERS:
            raise ValueError("too many header fields")  # to read them takes long, and much memory
        return super()._parse_headers(data.decode(errors="replace").encode())

    def _parse_data(self, data: bytes | bytearray, *, start: bool) -> tuple[bytes, int, bool]:
        """Return content, how many bytes of the buffer are done with, and whether the part goes on."""
        begin = 0
        if start:
            begin = 2 if data.startswith(b"\r\n") else 1
        line = data.find(self._boundary_line)
        found = self._delimiter.search(data, line) if line >= 0 else None
        if found is None:  # the last bytes may be the beginning of a delimiter
            end = max(begin, len(data) - self._longest)
            return bytes(data[begin:end]), end, True
        self.state = State.PART if found[1] is None else State.EPILOGUE
        end = found.start()
        if data[end - 1 : end] == b"\r":
            end -= 1
        return bytes(data[begin:end]), found.end(), False
