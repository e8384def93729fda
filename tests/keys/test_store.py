"""The snapshot: what it knows, how it learns of changes, and what it does while the database is away."""

import json
import logging
import os

import pytest
from sqlalchemy.exc import OperationalError

from database.connect import Database, DatabaseError, sqlite_url
from engine.errors import StartError
from keys.key_file import line_of
from keys.record import Key
from keys.registry import KeyRegistry
from keys.secret import digest, new_key
from keys.store import STALE_SECONDS, KeyStore

NOW = 1000.0
LATE = 4_000_000_000


class Counting:
    """A registry that counts what is read of it, and fails on demand."""

    def __init__(self, registry):
        self.registry, self.rows, self.failure = registry, 0, None

    def revisions(self):
        if self.failure is not None:
            raise self.failure
        return self.registry.revisions()

    def changed_since(self, revision):
        for key in self.registry.changed_since(revision):
            self.rows += 1
            yield key

    def ids(self):
        return self.registry.ids()


@pytest.fixture
def counting(registry):
    return Counting(registry)


@pytest.fixture
def store(counting):
    store = KeyStore(counting)
    store.load()
    return store


def test_a_change_is_read_alone(registry, counting, store, by):
    """A new, changed, disabled or removed key counts after the next refresh, and no other row is read for it."""
    texts = [registry.make(by, f"key-{number}")[1] for number in range(20)]
    store.refresh()
    assert (counting.rows, len(store)) == (20, 20)
    key = store.find(texts[3], NOW)
    registry.disable(by, key.id)
    registry.change(by, "key-7", requests_per_minute=5)
    store.refresh()
    assert counting.rows == 22
    assert store.find(texts[3], NOW).state(NOW) == "disabled"
    assert store.find(texts[7], NOW).account.limits.requests_per_minute == 5
    registry.delete(by, key.id)
    store.refresh()
    assert (store.find(texts[3], NOW), len(store), counting.rows) == (None, 19, 22)
    store.refresh()
    assert counting.rows == 22


def test_a_key_is_found_by_its_whole_text_alone(registry, store, by):
    """Its id with another secret is nobody's."""
    key, text = registry.make(by, "billing")
    store.refresh()
    assert store.find(text, NOW) == key == store.by_id(key.id)
    for wrong in (new_key(key.id).text, text[:-1], text + "a", text.upper(), key.id, key.hash, "", "avito_é"):
        assert store.find(wrong, NOW) is None


def test_an_old_secret_counts_until_its_grace_time_is_over(registry, store, by, clock):
    """Then the new one alone."""
    key, old = registry.make(by, "billing")
    _, new = registry.rotate(by, key.id, grace=60)
    store.refresh()
    end = int(clock()) + 60
    assert store.find(new, end).id == store.find(old, end - 1).id == key.id
    assert store.find(old, end) is None


def test_a_restored_backup_is_read_whole(registry, counting, store, by, database):
    """Its revision is an earlier one."""
    registry.make(by, "first")
    kept = registry.all()
    registry.make(by, "second")
    store.refresh()
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM api_keys WHERE name = 'second'")
        connection.exec_driver_sql("UPDATE revisions SET value = 1 WHERE name = 'keys'")
    store.refresh()
    assert [store.by_id(key.id) for key in kept] == kept
    assert len(store) == 1


def test_a_backup_from_before_a_removal_is_read_whole(registry, store, by, database):
    """The keys that were removed since are there again, though no other was changed."""
    registry.make(by, "kept")
    key, text = registry.make(by, "removed")
    store.refresh()
    with database.engine().begin() as connection:
        row = connection.exec_driver_sql("SELECT * FROM api_keys WHERE name = 'removed'").one()
    registry.delete(by, key.id)
    store.refresh()
    assert store.find(text, NOW) is None
    with database.engine().begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO api_keys VALUES ({', '.join('?' * len(row))})", tuple(row))
        connection.exec_driver_sql("UPDATE revisions SET value = 0 WHERE name = 'keys_deleted'")
    store.refresh()
    assert store.find(text, NOW) is not None


def test_another_database_is_read_whole(tmp_path, by):
    """Its revisions say nothing of what the former one had."""
    urls = [sqlite_url(tmp_path / name) for name in ("one.db", "two.db")]
    for url, names in zip(urls, (["a"], ["b", "c", "d"]), strict=True):
        for name in names:
            KeyRegistry(Database(url)).make(by, name)
    database = Database(urls[0])
    store = KeyStore(KeyRegistry(database))
    store.load()
    database.use_url(urls[1])
    store.read_anew()
    store.refresh()
    assert {key.name for key in store._in_database.values()} == {"b", "c", "d"}


def test_a_line_of_the_file_ends_where_json_says(registry, file):
    """Notes may have the ends of lines that Unicode knows besides."""
    made = json.loads(line(notes="one\u2028two\x85three")[0])
    file.write_text(json.dumps(made, ensure_ascii=False) + "\r\n")
    store = KeyStore(registry, file)
    store.load()
    assert [key.notes for key in store._in_file.values()] == ["one\u2028two\x85three"]


@pytest.mark.parametrize("failure", [OperationalError("x", {}, OSError()), DatabaseError("x"), OSError("x")])
def test_the_last_snapshot_stays_while_the_database_is_away(registry, counting, store, by, caplog, failure):
    """One line says so, and another that it is back; no line has the text of the error."""
    _, text = registry.make(by, "billing")
    store.refresh()
    caplog.set_level(logging.INFO)
    counting.failure = failure
    for _ in range(3):
        store.refresh()
    assert store.failing
    assert store.find(text, NOW) is not None
    counting.failure = None
    store.refresh()
    assert not store.failing
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_reading_that_takes_long_is_told(registry, counting):
    """A database that hangs raises nothing; the snapshot counts as stale for as long as it does."""
    now, seen = [0.0], []
    store = KeyStore(counting, clock=lambda: now[0])
    store.load()

    def revisions():
        for seconds in (1.0, STALE_SECONDS):
            now[0] += seconds
            seen.append(store.failing)
        return registry.revisions()

    counting.revisions = revisions
    store.refresh()
    assert seen == [False, True]
    assert not store.failing


def test_without_a_database_or_a_file_there_is_no_start(tmp_path):
    """The error names the settings and nothing of the URL."""
    registry = KeyRegistry(Database(f"sqlite:///{tmp_path}/nothing/here.db"))
    (tmp_path / "nothing").write_text("no folder")
    with pytest.raises(StartError, match="DATABASE_URL") as found:
        KeyStore(registry).load()
    assert str(tmp_path) not in str(found.value)


# --- the file ---


def line(text="", **fields):
    """Return a line of the file for a new key, and the key's text."""
    made = new_key()
    return json.dumps({"id": made.id, "name": "in a file", "hash": made.hash} | fields), made.text


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


def test_keys_of_a_file_count_beside_those_of_the_database(registry, by, file):
    """Comments and empty lines are passed over."""
    written, text = line(requests_per_minute=7, models=["avibe"])
    file.write_text(f"# ours\n\n{written}\n")
    _, other = registry.make(by, "billing")
    store = KeyStore(registry, file)
    store.load()
    key = store.find(text, NOW)
    assert (key.name, key.source, key.account.limits.requests_per_minute) == ("in a file", "file", 7)
    assert key.account.models == {"avibe"}
    assert store.find(other, NOW).source == "database"
    assert len(store) == 2


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(registry, file, caplog):
    """A broken file is reported once."""
    (first, text), (second, other) = line(), line(name="second")
    file.write_text(first)
    store = KeyStore(registry, file)
    store.load()
    replace(file, second)
    store.refresh()
    assert (store.find(text, NOW), store.find(other, NOW).name) == (None, "second")
    replace(file, second + "\n{")
    for _ in range(3):
        store.refresh()
    assert store.failing
    assert store.find(other, NOW) is not None
    file.unlink()
    store.refresh()
    assert store.find(other, NOW) is not None
    replace(file, first)
    store.refresh()
    assert store.find(text, NOW) is not None
    assert not store.failing
    assert len([record for record in caplog.records if "line 2" in record.getMessage()]) == 1


def replace(file, text):
    """Write a file as editors do, by another that takes its name."""
    another = file.with_suffix(".new")
    another.write_text(text)
    os.replace(another, file)


WRONG = [
    "{",
    "[]",
    "17",
    '"text"',
    "[" * 100_000,
    line()[0] + "x",
    line(id=None)[0],
    line(id="short")[0],
    line(hash="short")[0],
    line(hash=digest("a").upper())[0],
    line(previous_hash=7)[0],
    line(name=None)[0],
    line(name=["a"])[0],
    line(models="avibe")[0],
    line(models=[7])[0],
    line(notes=7)[0],
    line(expires_at="2026")[0],
    line(expires_at=True)[0],
    line(created_at=1_700_000_000, expires_at=1_700_000_000)[0],
    line(requests_per_minute=-1)[0],
    line(priority=1)[0],
    line(secret="x")[0],
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_wrong_line_stops_the_start_and_is_named(registry, file, wrong):
    """By its number, and without what it holds."""
    file.write_text(f"{line()[0]}\n{wrong}\n")
    with pytest.raises(StartError, match="API_KEYS_FILE=.*line 2: ") as found:
        KeyStore(registry, file).load()
    assert "avibe" not in str(found.value)


def test_a_line_for_an_unknown_model_stops_the_start(database, file):
    """A name that no model has would let nobody in; what the message says does not come from the file."""
    file.write_text(line(models=["avibe", "avibe@v2"])[0])
    KeyStore(KeyRegistry(database, models=("avibe", "avibe@v2")), file).load()
    with pytest.raises(StartError, match=r"line 1: models: expected names of this service's models \(avibe\)\."):
        KeyStore(KeyRegistry(database, models=("avibe", "avibe-demo")), file).load()


def test_a_key_of_a_file_may_be_over(database, file):
    """It ended, as keys do: that does not stop the next start."""
    text = line(created_at=1_700_000_000, expires_at=1_700_000_001)
    file.write_text(text[0])
    store = KeyStore(KeyRegistry(database), file)
    store.load()
    assert len(store) == 1


def test_an_id_stands_in_one_line(registry, file):
    """Otherwise it would be open which counts."""
    file.write_text(f"{line()[0]}\n" * 2 + line()[0])
    twice = line()[0]
    file.write_text(f"{twice}\n{twice}\n")
    with pytest.raises(StartError, match="line 2"):
        KeyStore(registry, file).load()


@pytest.mark.parametrize("make", [lambda file: None, lambda file: file.mkdir(), lambda file: file.write_bytes(b"\xff")])
def test_a_file_that_cannot_be_read_stops_the_start(registry, file, make):
    """A missing one, a folder, and what is no text."""
    make(file)
    with pytest.raises(StartError, match="API_KEYS_FILE"):
        KeyStore(registry, file).load()


def test_the_file_carries_the_start_without_a_database(tmp_path, file):
    """Its keys count, and the metric says that the database is away."""
    (tmp_path / "nothing").write_text("no folder")
    written, text = line()
    file.write_text(written)
    store = KeyStore(KeyRegistry(Database(f"sqlite:///{tmp_path}/nothing/here.db")), file)
    store.load()
    assert store.find(text, NOW) is not None
    assert store.failing


def test_a_printed_line_is_read_as_the_same_key(registry, by, file):
    """What `line_of` writes, the store reads."""
    key, text = registry.make(
        by, "шины", models=["avibe"], tokens_per_day=5, priority="low", notes="a", expires_at=LATE
    )
    file.write_text(line_of(key))
    store = KeyStore(KeyRegistry(Database("sqlite:////nothing/here.db")), file)
    store.load()
    found = store.find(text, NOW)
    assert found == Key(key.id, key.hash, key.account, key.created_at, LATE, notes="a", source="file")
