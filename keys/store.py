"""The keys that this process knows: a snapshot of the database and of the file, for look-ups that ask neither.

`keys.refresh` brings it up to date, so a change counts within a second in every copy of the service, and a request
never waits for the database. While that is away, the last snapshot counts: one line of the log and a metric say so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from database.connect import DatabaseError, failure_of
from engine.errors import StartError
from keys.key_file import KeyFileError, read_keys
from keys.record import Key, KeyFieldError
from keys.registry import KeyRegistry
from keys.secret import digest, id_of, same

log = logging.getLogger("avito_ai.keys")

FAILURES = (DatabaseError, SQLAlchemyError, OSError, KeyFieldError)
STALE_SECONDS = 5.0  # that a reading may take before the keys count as stale
Signature = tuple[int, int, int]


class KeyStore:
    """The known keys by their ids. Look-ups are safe from any thread and never wait. clock: seconds, monotonic."""

    def __init__(
        self, registry: KeyRegistry, file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry, self._file, self._clock = registry, file, clock
        # Written by one thread at a time, the one that loads and later the one that refreshes.
        self._in_database: dict[str, Key] = {}
        self._in_file: dict[str, Key] = {}
        self._revisions = (0, 0)
        self._sources, self._read_of = 1, 0  # how many databases there were, and which of them was read
        self._signature: Signature | None = None
        self._failing: dict[str, str] = {}
        self._reading_since: float | None = None  # on the clock, while the thread reads

    def __len__(self) -> int:
        return len(self._in_database) + len(self._in_file)

    @property
    def failing(self) -> bool:
        """True while the keys cannot be read, or a reading takes long, and those of the last snapshot count."""
        since = self._reading_since
        return bool(self._failing) or (since is not None and self._clock() - since > STALE_SECONDS)

    def load(self) -> None:
        """Read all keys. Raises StartError where there are none to begin with."""
        if self._file is not None:
            try:
                self._read_file(self._file)
            except KeyFileError as error:
                raise StartError(f"API_KEYS_FILE={self._file}: {error}.") from error
        try:
            self._read_database()
        except FAILURES as error:
            if self._file is None:
                raise StartError(
                    f"AUTH asks for keys, and the database of DATABASE_URL cannot be read ({failure_of(error)}); "
                    "start it, or name a file of keys in API_KEYS_FILE."
                ) from error
            self._failed("database", failure_of(error))

    def by_id(self, key_id: str) -> Key | None:
        """Return the key of this id; one of the database counts before one of the file."""
        return self._in_database.get(key_id) or self._in_file.get(key_id)

    def find(self, text: str, now: float) -> Key | None:
        """Return the key of this text, whatever its state; None where no key has it at this time."""
        key_id = id_of(text)
        key = None if key_id is None else self.by_id(key_id)
        if key is None:
            return None
        offered = digest(text)
        return key if any(same(offered, known) for known in key.hashes(now)) else None

    def read_anew(self) -> None:
        """Read all keys with the next refresh: those of the database may be of another one. From any thread."""
        self._sources += 1

    def refresh(self) -> None:
        """Read what has changed; a failure leaves the snapshot as it is."""
        self._reading_since = self._clock()
        try:
            self._read_database()
            self._works("database")
        except FAILURES as error:
            self._failed("database", failure_of(error))
        finally:
            self._reading_since = None
        if self._file is not None:
            try:
                self._read_file(self._file)
                self._works("file")
            except KeyFileError as error:
                self._failed("file", str(error))

    def _read_database(self) -> None:
        """Read the rows that changed, and the ids of those that are left where any was removed."""
        sources = self._sources
        revisions = self._registry.revisions()  # first: what is committed meanwhile is read again
        restored = any(now < known for now, known in zip(revisions, self._revisions, strict=True))
        if restored or sources != self._read_of:
            self._in_database = {key.id: key for key in self._registry.changed_since(0)}
        else:
            if revisions[0] != self._revisions[0]:
                changed = {key.id: key for key in self._registry.changed_since(self._revisions[0])}
                self._in_database = self._in_database | changed
            if revisions[1] != self._revisions[1]:
                left = self._registry.ids()
                self._in_database = {key_id: key for key_id, key in self._in_database.items() if key_id in left}
        self._revisions, self._read_of = revisions, sources

    def _read_file(self, file: Path) -> None:
        try:
            found = file.stat()
        except OSError as error:
            raise KeyFileError(f"it cannot be read: {error.strerror}") from error
        signature = (found.st_mtime_ns, found.st_size, found.st_ino)
        if signature != self._signature:
            self._in_file = read_keys(file, self._registry.models)
            self._signature = signature

    def _failed(self, source: str, reason: str) -> None:
        if self._failing.get(source) != reason:
            log.warning("The keys of the %s cannot be read (%s): those known before stay as they were.", source, reason)
        self._failing[source] = reason

    def _works(self, source: str) -> None:
        if self._failing.pop(source, None) is not None:
            log.info("The keys of the %s are read again.", source)
