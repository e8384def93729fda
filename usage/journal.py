"""The journal of a process: a line for each record, written before its client has the last byte of the answer.

A journal is a row of files in one folder, `<journal>.<position of the first byte>.log`; positions are bytes from the
journal's beginning. `<journal>.lock` is locked while its process lives, so that others know when they may take over
what it has left. What is written survives the process; only the end of the machine may lose the last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from usage.record import UsageRecord, read_line

SEGMENT_BYTES = 4 * 1024 * 1024
MOST_BYTES = 256 * 1024 * 1024  # of one journal: about a million records that no database has taken
PATIENCE = 0.5  # seconds that one write waits for another, which a disk may hold up
READ_BYTES = 256 * 1024  # at once; a line is far shorter
NAME = re.compile(r"[0-9a-z-]{1,64}")
SEGMENT = re.compile(r"[0-9a-z-]{1,64}\.(?P<start>\d{1,18})\.log")


class JournalError(Exception):
    """A record could not be written."""


class Journal:
    """The journal that this process writes. Raises OSError where the folder cannot be written. Thread-safe.

    patience: seconds that a record waits for the one that is being written; while the disk holds that up, for longer
    than these, further ones do not wait at all.
    """

    def __init__(
        self,
        folder: Path,
        segment_bytes: int = SEGMENT_BYTES,
        most_bytes: int = MOST_BYTES,
        write: Callable[[int, bytes], int] = os.write,
        patience: float = PATIENCE,
    ) -> None:
        self.name = f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}-{secrets.token_hex(8)}"
        self._write_bytes = write
        self._folder, self._segment_bytes, self._most_bytes = folder, segment_bytes, most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._held = _new_lock(folder, self.name)
        self._patience, self._stalled = patience, False
        self._lock = threading.Lock()  # held while the disk takes a line; guards the fields below
        self._file: int | None = None
        self._start = self._end = self._stored = 0

    @property
    def end(self) -> int:
        """The position behind the last record."""
        return self._end

    @property
    def stored(self) -> int:
        """The position up to which the database has it."""
        return self._stored

    def append(self, record: UsageRecord) -> int:
        """Write a record; return the position behind it. Raises JournalError, and leaves no part of the line."""
        line = record.line()
        with self._turn():
            if self._end + len(line) - self._stored > self._most_bytes:
                raise JournalError("the journal is full")
            try:
                self._write(self._open(), line)
            except OSError as error:
                raise JournalError(os.strerror(error.errno or 0)) from error
            return self._end

    def take(self, position: int) -> None:
        """Let go of what the database has, up to this position. Raises JournalError, and can be repeated."""
        with self._turn():
            self._stored = position
            if self._file is not None and position == self._end and position - self._start >= self._segment_bytes:
                self._close()
            kept = self._start if self._file is not None else None
        for segment in segments(self._folder, self.name):
            # One that begins there has just been opened by another thread: what is stored is never empty.
            if segment.end <= position and segment.start != kept and segment.start < position:
                segment.file.unlink(missing_ok=True)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the lock. Raises JournalError where another thread has it for longer than `patience`."""
        if not self._lock.acquire(timeout=0 if self._stalled else self._patience):
            self._stalled = True
            raise JournalError("the disk does not answer")
        try:
            self._stalled = False
            yield
        finally:
            self._lock.release()

    def _open(self) -> int:
        if self._file is not None and self._end - self._start >= self._segment_bytes:
            self._close()
        if self._file is None:
            path = self._folder / f"{self.name}.{self._end}.log"
            self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            self._start = self._end
        return self._file

    def _write(self, file: int, line: bytes) -> None:
        """Write a line in one call. A part of it, where the disk is full, is taken back, else the file is given up."""
        written = self._write_bytes(file, line)
        if written < len(line):
            try:
                os.ftruncate(file, self._end - self._start)
            except OSError:
                self._end += written
                self._close()
            raise OSError(errno.ENOSPC, "no space left")
        self._end += written

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _new_lock(folder: Path, name: str) -> int:
    """Return the descriptor of a new lock, which nobody ever sees unlocked."""
    path = folder / f"{name}.new"
    held = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    path.rename(folder / f"{name}.lock")
    return held


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of a journal, from one position to another."""

    file: Path
    start: int
    end: int


def segments(folder: Path, journal: str) -> list[Segment]:
    """Return the files of a journal in order."""
    found = []
    for file in folder.glob(f"{journal}.*.log"):
        match = SEGMENT.fullmatch(file.name)
        with suppress(FileNotFoundError):
            if match is not None:
                start = int(match["start"])
                found.append(Segment(file, start, start + file.stat().st_size))
    return sorted(found, key=lambda segment: segment.start)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of a journal up to a position. damaged: how many lines in between are none."""

    records: list[UsageRecord]
    position: int
    damaged: int = 0


def read(folder: Path, journal: str, position: int, ended: bool = False) -> Chunk:
    """Return the next records of a journal behind a position; none at its end. Raises OSError.

    ended: nothing is written to it any longer, so that a line without an end is one that was cut off.
    """
    found = segments(folder, journal)
    for segment in found:
        if segment.end <= position:
            continue
        position = max(position, segment.start)
        chunk = _chunk(segment, position, complete=ended or segment is not found[-1])
        if chunk.position > position:
            return chunk
    return Chunk([], position)


def _chunk(segment: Segment, position: int, complete: bool) -> Chunk:
    """Return the records of a part of a file. complete: nothing more is written to it."""
    with segment.file.open("rb") as file:
        file.seek(position - segment.start)
        data = file.read(READ_BYTES)
    whole, newline, rest = data.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    records = [record for line in lines if (record := read_line(line)) is not None]
    damaged, read_to = len(lines) - len(records), position + len(data)
    if rest and (len(rest) == READ_BYTES or (complete and read_to == segment.end)):
        damaged += 1  # no line is that long, or nobody will ever end it
    else:
        read_to -= len(rest)
    return Chunk(records, read_to, damaged)


class LeftBehind:
    """A journal whose process is gone; it belongs to this process until `release`, which may be called twice."""

    def __init__(self, name: str, held: int) -> None:
        self.name, self._held = name, held

    def release(self) -> None:
        """Leave it to others again."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def left_behind(folder: Path) -> Iterator[LeftBehind]:
    """Yield the journals whose processes are gone, each locked."""
    for path in sorted(folder.glob("*.lock")):
        if NAME.fullmatch(path.stem) and (held := _locked(path)) is not None:
            yield LeftBehind(path.stem, held)


def _locked(path: Path) -> int | None:
    """Return the descriptor of a file that is locked now; None if another process has it, or has removed it."""
    try:
        held = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_ino == path.stat().st_ino:
            return held
    except OSError:
        pass
    os.close(held)
    return None


def remove(folder: Path, journal: str) -> None:
    """Remove a journal that the database has whole; while it is locked."""
    for segment in segments(folder, journal):
        segment.file.unlink(missing_ok=True)
    (folder / f"{journal}.lock").unlink(missing_ok=True)
