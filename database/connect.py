"""Opens the database and brings its tables to the newest version.

SQLite is set up for one file that several threads and copies use: a write-ahead log, so that readers and the one writer
do not wait for each other, and a bound on how long a writer waits for another.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

BUSY_SECONDS = 10.0
CONNECT_SECONDS = 5
OPEN_SECONDS = 1.0  # that a request waits for the database to be opened
MIGRATION_SECONDS = 600.0  # for one statement of a migration
# Of PostgreSQL, so that copies that start together migrate one after the other; any number of ours does.
MIGRATION_LOCK = 0x61766974
_MIGRATING = threading.Lock()  # guards Alembic's context, of which a process has one
MIGRATIONS = Path(__file__).with_name("migrations")


class DatabaseError(Exception):
    """The database cannot be used; the message has no secret of its URL."""


# SQLite's primary result codes, in words for whoever has to mend it.
_SQLITE_REASONS = {
    sqlite3.SQLITE_PERM: "the user of the service may not use its file",
    sqlite3.SQLITE_BUSY: "another process holds its file",
    sqlite3.SQLITE_READONLY: "its file cannot be written",
    sqlite3.SQLITE_IOERR: "its disk cannot be written or read, and may be full",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_NOTADB: "its file is no database",
}


def failure_of(error: BaseException) -> str:
    """Return why the database failed, without the driver's own text, which may contain the URL and its password."""
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and (reason := _SQLITE_REASONS.get(code & 0xFF)):
            return reason
        cause = getattr(cause, "orig", None) or cause.__cause__
    return type(error.__cause__ or error).__name__


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite database in a file."""
    return f"sqlite:///{file}"


def open_database(url: str) -> Engine:
    """Return the engine of a database; nothing connects before it is used. Raises DatabaseError for a wrong URL."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() != "sqlite":
            engine = create_engine(
                parsed,
                pool_pre_ping=True,
                pool_size=2,
                max_overflow=8,
                pool_timeout=BUSY_SECONDS,
                connect_args={"connect_timeout": CONNECT_SECONDS, **_encoding(parsed)},
            )
            if parsed.get_backend_name() == "postgresql":
                from database.postgres import bound  # where it is used alone: it loads libpq

                bound(engine)
            return engine
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    except (ArgumentError, ImportError, OSError) as error:
        raise DatabaseError(f"DATABASE_URL cannot be used: {type(error).__name__}.") from error
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _encoding(url: URL) -> dict[str, str]:
    """Return what makes texts of PostgreSQL UTF-8; a cluster of the locale C names none, and they would be bytes."""
    return {"client_encoding": "utf8"} if url.get_backend_name() == "postgresql" else {}


def _set_up_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(engine: Engine) -> None:
    """Create the tables, or bring them to the newest version. Raises DatabaseError.

    A database that a newer release has migrated stays as it is: a column or table more does not disturb an older one.
    Where there is nothing to do, no other copy that migrates is waited for.
    """
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with engine.connect() as connection:
            if not _is_older(connection, settings):
                return
        with _MIGRATING, engine.begin() as connection, patient(connection, MIGRATION_SECONDS):
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATION_LOCK})
            elif engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if _is_older(connection, settings):  # also now that no other copy migrates
                settings.attributes["connection"] = connection
                command.upgrade(settings, "head")
    except (SQLAlchemyError, CommandError) as error:
        raise DatabaseError(f"The database cannot be used: {failure_of(error)}.") from error


def _is_older(connection: Connection, settings: Config) -> bool:
    """Return whether the database has none of the newest version, and no version that this release does not know."""
    scripts = ScriptDirectory.from_config(settings)
    found = {*MigrationContext.configure(connection).get_current_heads()}
    return found != {*scripts.get_heads()} and found <= {script.revision for script in scripts.walk_revisions()}


@contextmanager
def patient(connection: Connection, seconds: float) -> Iterator[None]:
    """Let each statement of a transaction take so many seconds, beyond the bound that PostgreSQL's have."""
    if connection.dialect.name != "postgresql":
        yield
        return
    from database.postgres import waiting_for

    with waiting_for(connection, seconds):
        yield


class Database:
    """The database of this process, which a thread of its own opens and brings to its newest version. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._patience: float | None = None
        self._lock = threading.Lock()  # guards the URL and the field below
        self._opening: Future[Engine] | None = None  # the one that goes on or has succeeded

    def begin(self) -> None:
        """Open it, and have no use wait for that for longer than OPEN_SECONDS from now on: it may be a request's."""
        self._patience = OPEN_SECONDS
        with suppress(DatabaseError):
            self._begun()

    def engine(self) -> Engine:
        """Return the engine, once it is opened. Raises DatabaseError; the next call tries again.

        Calls that wait for one that fails have its error, so that they do not wait for a database one after the other.
        """
        try:
            return self._begun().result(self._patience)
        except TimeoutError as error:
            raise DatabaseError("The database is being opened.") from error
        except DatabaseError as error:  # of all who wait for it: each raises its own
            raise DatabaseError(str(error)) from error.__cause__

    def use_url(self, url: str) -> None:
        """Use another URL, or another password in it, from the next use on; what runs now ends as it began."""
        with self._lock:
            former, self._opening, self._url = self._opening, None, url
        if former is not None:
            former.add_done_callback(_dispose)

    def _begun(self) -> Future[Engine]:
        """Return the opening, begun if there is none. Raises DatabaseError."""
        with self._lock:
            if self._opening is None:
                opening = Future[Engine]()
                try:
                    threading.Thread(target=self._open, args=(self._url, opening), name="database", daemon=True).start()
                except RuntimeError as error:
                    raise DatabaseError("There is no room for a thread that opens the database.") from error
                self._opening = opening
            return self._opening

    def _open(self, url: str, opening: Future[Engine]) -> None:
        try:
            engine = open_database(url)
            try:
                migrate(engine)
            except BaseException:
                engine.dispose()
                raise
        except BaseException as error:  # whatever it is, those who wait have it
            with self._lock:
                if self._opening is opening:
                    self._opening = None
            opening.set_exception(error)
        else:
            opening.set_result(engine)


def _dispose(opening: Future[Engine]) -> None:
    if opening.exception() is None:
        opening.result().dispose()
