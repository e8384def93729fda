"""The database is opened, migrated and used by several at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

import database.connect
from database.connect import Database, DatabaseError, failure_of, migrate, open_database, sqlite_url
from database.tables import METADATA
from tests.fakes import PATIENCE
from tests.threads import together


@pytest.fixture
def engine(tmp_path):
    """A new database in a file."""
    return open_database(sqlite_url(tmp_path / "state" / "avito-ai.db"))


def test_the_migrations_make_the_tables_of_the_code(engine):
    """What the migrations build and what the code declares is the same."""
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    assert set(METADATA.tables) <= set(inspect(engine).get_table_names())


def test_migrating_again_changes_nothing(engine):
    """A second start finds the tables and keeps what they hold."""
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO revisions VALUES ('keys', 7)"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT value FROM revisions")).scalar_one() == 7


def test_a_database_of_a_newer_release_is_used_as_it_is(engine):
    """A release that is rolled back works with the tables of the one after it, and leaves their version."""
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-a-newer-release'"))
        connection.execute(text("ALTER TABLE revisions ADD COLUMN more TEXT"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "of-a-newer-release"


def test_what_migrating_itself_refuses_is_told(engine, monkeypatch):
    """An error of Alembic's own is the same typed error."""

    def refuse(*_):
        raise CommandError("no such revision")

    monkeypatch.setattr(database.connect.command, "upgrade", refuse)
    with pytest.raises(DatabaseError, match="CommandError"):
        migrate(engine)


def test_copies_that_start_together_migrate_once(tmp_path):
    """Several copies that find no tables all end up with them."""
    url = sqlite_url(tmp_path / "avito-ai.db")
    failures = []

    def start():
        try:
            migrate(open_database(url))
        except Exception as error:
            failures.append(error)

    together(*[start] * 6)
    assert failures == []
    assert set(METADATA.tables) <= set(inspect(open_database(url)).get_table_names())


def test_a_copy_that_migrates_lets_no_other_process_write(engine, monkeypatch):
    """From its last look at the version on; else two would see no tables, and both make them."""
    held, is_older = [], database.connect._is_older

    def look(*arguments):
        with closing(sqlite3.connect(engine.url.database, timeout=0)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                held.append("locked" in str(error))
            else:
                held.append(False)
        return is_older(*arguments)

    monkeypatch.setattr(database.connect, "_is_older", look)
    migrate(engine)
    assert held == [False, True]


def test_a_database_of_the_newest_version_is_used_while_another_process_writes(engine):
    """There is nothing to migrate, so nothing is waited for."""
    migrate(engine)
    again = open_database(str(engine.url))
    with closing(sqlite3.connect(engine.url.database, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        migrate(again)
        assert other.in_transaction  # it was not waited for
        other.rollback()
    again.dispose()


def test_readers_and_the_writer_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """Each reader has all of one moment, and a change is kept while it reads."""
    monkeypatch.setattr(database.connect, "BUSY_SECONDS", 0.0)
    engine = open_database(sqlite_url(tmp_path / "avito-ai.db"))
    migrate(engine)
    count = text("SELECT count(*) FROM revisions")
    with engine.connect() as reader, engine.connect() as another:
        reader.exec_driver_sql("BEGIN")
        assert reader.execute(count).scalar_one() == 0
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO revisions VALUES ('keys', 7)"))
            assert another.execute(count).scalar_one() == 0
        assert reader.execute(count).scalar_one() == 0
    with engine.connect() as reader:
        assert reader.execute(count).scalar_one() == 1


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite:////proc/none/at/all.db"])
def test_a_database_that_cannot_be_used_is_told(url):
    """A wrong URL, a driver that is not there and a folder that cannot be made are one typed error."""
    with pytest.raises(DatabaseError):
        migrate(open_database(url))


def test_the_error_has_no_password():
    """Nothing of the URL's secret is told."""
    with pytest.raises(DatabaseError) as failure:
        migrate(open_database("postgresql://user:not-a-password@127.0.0.1:1/name"))  # pragma: allowlist secret
    assert "not-a-password" not in str(failure.value)


class CountedLock:
    """A lock that counts who has had it."""

    def __init__(self):
        self.lock, self.had = threading.Lock(), threading.Semaphore(0)

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        self.had.release()


class Slow:
    """Opens databases once it is told to. tries: the URLs that were to be opened; failing: it cannot."""

    def __init__(self, failing=False):
        self.began, self.go_on, self.tries, self.made = threading.Semaphore(0), threading.Event(), [], []
        self._failing = failing

    def __call__(self, url):
        self.tries.append(url)
        self.began.release()
        assert self.go_on.wait(PATIENCE)
        if self._failing:
            raise DatabaseError("away") from OSError()
        self.made.append(open_database(url))
        return self.made[-1]


@pytest.fixture
def slow(monkeypatch):
    """What opens databases in this test."""
    opens = Slow()
    monkeypatch.setattr(database.connect, "open_database", opens)
    yield opens
    opens.go_on.set()
    for engine in opens.made:
        engine.dispose()


def test_calls_that_wait_for_a_failure_share_it(tmp_path, monkeypatch):
    """A database that does not answer is waited for once, not by one call after the other; later calls try again."""
    away, failed = Slow(failing=True), []

    def use():
        with pytest.raises(DatabaseError, match="away") as failure:
            service.engine()
        failed.append((failure.value, failure_of(failure.value)))

    service = Database(sqlite_url(tmp_path / "avito-ai.db"))
    service._lock = lock = CountedLock()
    monkeypatch.setattr(database.connect, "open_database", away)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert lock.had.acquire(timeout=PATIENCE)
    away.go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert (len(away.tries), len(failed), len({id(error) for error, _ in failed})) == (1, 4, 4)
    assert {reason for _, reason in failed} == {"OSError"}
    monkeypatch.undo()
    service.engine().dispose()


def test_no_request_waits_long_for_the_database_to_be_opened(tmp_path, slow, monkeypatch):
    """Each has an error soon; one thread goes on, and once it is done the next request has its engine."""
    monkeypatch.setattr(database.connect, "OPEN_SECONDS", 0.01)
    service = Database(sqlite_url(tmp_path / "avito-ai.db"))
    service.begin()
    for _ in range(3):
        with pytest.raises(DatabaseError, match="being opened"):
            service.engine()
    assert len(slow.tries) == 1
    slow.go_on.set()
    service._opening.result(PATIENCE)
    assert service.engine() is slow.made[0]


def test_another_url_does_not_wait_for_the_former_one(tmp_path, slow, monkeypatch):
    """The one that hangs is waited for by those who asked before; what it opens in the end is closed."""
    urls = [sqlite_url(tmp_path / f"{number}.db") for number in range(2)]
    monkeypatch.setattr(database.connect, "OPEN_SECONDS", 0.01)
    service = Database(urls[0])
    service.begin()
    former = service._opening
    service.use_url(urls[1])
    with pytest.raises(DatabaseError, match="being opened"):
        service.engine()
    for _ in urls:
        assert slow.began.acquire(timeout=PATIENCE)
    assert slow.tries == urls
    closed = threading.Event()
    former.add_done_callback(lambda _: closed.set())  # behind what closes it
    slow.go_on.set()
    assert closed.wait(PATIENCE)
    service._opening.result(PATIENCE)
    assert str(service.engine().url) == urls[1]
    assert former.result().pool.checkedin() == 0


def test_no_room_for_a_thread_is_told(tmp_path, monkeypatch):
    """As that the database cannot be used; the next use tries again."""
    service = Database(sqlite_url(tmp_path / "avito-ai.db"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_to_start)
        service.begin()
        with pytest.raises(DatabaseError, match="thread"):
            service.engine()
    service.engine().dispose()


def refuse_to_start(thread):
    """As where the system has as many threads as it may."""
    raise RuntimeError("can't start new thread")


def full(connection: sqlite3.Connection) -> None:
    """As on a full disk: the file may not grow."""
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE large (bytes BLOB)")
    connection.execute("INSERT INTO large VALUES (zeroblob(100000))")


def read_only(connection: sqlite3.Connection) -> None:
    """As where the file is not the service's to write."""
    connection.execute("PRAGMA query_only = ON")
    connection.execute("CREATE TABLE large (bytes BLOB)")


@pytest.mark.parametrize(("fail", "said"), [(full, "its disk is full"), (read_only, "its file cannot be written")])
def test_what_failed_of_sqlite_is_said_in_words(
    fail: Callable[[sqlite3.Connection], None], said: str, tmp_path: Path
) -> None:
    """In place of the name of a class, for the driver's error and for those that wrap it."""
    with closing(sqlite3.connect(tmp_path / "file.db")) as connection, pytest.raises(sqlite3.Error) as failed:
        fail(connection)
    wrapped = OperationalError("INSERT", {}, failed.value)
    outer = DatabaseError("The database cannot be used.")
    outer.__cause__ = wrapped
    assert {failure_of(error) for error in (failed.value, wrapped, outer)} == {said}


def test_a_file_that_is_no_database_is_said_in_words(tmp_path: Path) -> None:
    """The message of a command that opens it has the reason."""
    (tmp_path / "file.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError, match="its file is no database"):
        migrate(open_database(sqlite_url(tmp_path / "file.db")))


def test_of_another_database_only_the_kind_of_the_failure_is_said() -> None:
    """The text of its driver may contain the URL and its password."""
    assert failure_of(OperationalError("SELECT", {}, Exception("secret"))) == "OperationalError"
