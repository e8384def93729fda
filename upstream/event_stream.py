"""Reads server-sent events from the bytes of a response: https://html.spec.whatwg.org/multipage/server-sent-events.html.

Only `data` counts, for OpenAI-compatible servers send nothing else that matters.
"""

from __future__ import annotations

MAX_EVENT = 4 * 1024 * 1024  # bytes
MAX_OTHER = 1024 * 1024  # bytes of lines without data, beyond those of the lines with data
MARK = b"\xef\xbb\xbf"  # that may stand at the beginning of the stream


class EventTooLong(ValueError):
    """An event has more than MAX_EVENT bytes, or too much stands beside the events; no server means that."""


class EventReader:
    """The events of one response. Lines end with LF, CR LF, or CR before LF of another read."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._begun = False  # the first line has come
        self._data: list[bytes] = []
        self._size = 0  # of the lines of data
        self._others_left = MAX_OTHER

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that ends in these bytes. Raises EventTooLong."""
        found: list[bytes] = []
        self._rest += chunk
        if b"\n" not in chunk:
            self._check_size()
            return found
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        if not self._begun:
            self._begun, lines[0] = True, lines[0].removeprefix(MARK)
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
                self._others_left += len(line)
                continue
            self._others_left -= len(line) + 1
            if not line and self._data:
                found += self._ended()
        self._check_size()
        return found

    def _ended(self) -> list[bytes]:
        """Return the data of the event that a blank line ends; one without any is a sign of life, as a comment is."""
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if not data.strip():
            self._others_left -= 2 * self._size
        self._data, self._size = [], 0
        return [data] if data.strip() else []

    def rest(self) -> list[bytes]:
        """Return the data of an event at the end that no blank line ends, as some servers leave the last one."""
        return self.feed(b"\n\n") if self._rest or self._data else []

    def _check_size(self) -> None:
        if len(self._rest) + self._size > MAX_EVENT or self._others_left < 0:
            raise EventTooLong
