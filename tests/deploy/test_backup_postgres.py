"""deploy/backup.sh dumps a PostgreSQL database and restores it by itself."""

from __future__ import annotations

import os

import psycopg
import pytest

from database.connect import Database, DatabaseError
from database.tables import METADATA
from deploy.database_copy import TABLES
from keys.registry import Actor, KeyRegistry
from tests import postgres
from tests.deploy.production_box import ProductionBox
from tests.deploy.test_backup import backup

pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.slow, pytest.mark.linux]
BY = Actor("admin")
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"


@pytest.fixture(scope="module")
def server():
    """One PostgreSQL for the tests of this module."""
    with postgres.running() as server:
        yield server


def execute(server, statement):
    """Run a statement as somebody else would."""
    with psycopg.connect(server.url) as connection:
        connection.execute(statement)


@pytest.fixture
def registry(server):
    """The keys of a database that has no table before the first of them is made."""
    execute(server, EMPTY)
    database = Database(server.url)
    yield KeyRegistry(database)
    database.engine().dispose()


@pytest.fixture
def used(box: ProductionBox, server, registry) -> ProductionBox:
    """A service whose settings name the database, by a secret in a file."""
    for name in ("gzip", "rm"):
        box.tool(name, f'exec /bin/{name} "$@"')
    for name in ("pg_dump", "pg_restore"):
        box.tool(name, f'echo "$0 $*" >>"{box.log}"; exec {postgres.command(name)} "$@"')
    secret = box.system / "etc/avito-ai/database-url"
    secret.write_text(server.url.replace("avito@", "avito:secret@") + "?application_name=backup\n")
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f"DATABASE_URL_FILE={secret}\n")
    return box


def names(registry: KeyRegistry) -> list[str]:
    return sorted(key.name for key in registry.all())  # those of one second have no order


def test_all_tables_of_the_service_are_dumped():
    """A table that is added to the code is in a backup too."""
    assert set(TABLES) == {*METADATA.tables, "alembic_version"}


def test_a_database_comes_back(used, server, registry, tmp_path):
    """Also to a new server; what it replaced is backed up, and tables of somebody else stay as they are."""
    archive = tmp_path / "copy.tar.gz"
    registry.make(BY, "kept")
    execute(server, "CREATE TABLE others AS SELECT 'old' AS value")
    assert backup(used, "create", str(archive)).returncode == 0
    registry.make(BY, "later")
    execute(server, "UPDATE others SET value = 'new'")
    done = backup(used, "restore", str(archive), "--files-only")
    assert done.returncode == 0, done.stderr
    assert names(registry) == ["kept"]
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT value FROM others").fetchall() == [("new",)]
    assert registry.make(BY, "after")[0].name == "after"
    assert not list(used.system.rglob("avito-ai.dump"))
    (before,) = (used.system / "var/backups/avito-ai").glob("before-restore-*")
    assert backup(used, "restore", str(before), "--files-only").returncode == 0
    assert names(registry) == ["kept", "later"]
    execute(server, EMPTY)
    assert backup(used, "restore", str(archive), "--files-only").returncode == 0
    assert names(registry) == ["kept"]
    assert "secret" not in used.log.read_text()


def test_a_restore_that_fails_changes_nothing(used, server, registry, tmp_path):
    """Neither the settings nor a part of the database; a program that is missing is named."""
    archive, settings = tmp_path / "copy.tar.gz", used.system / "etc/avito-ai/.env"
    registry.make(BY, "kept")
    assert backup(used, "create", str(archive)).returncode == 0
    registry.make(BY, "later")
    execute(server, "CREATE TABLE others (key VARCHAR(16) REFERENCES api_keys (id))")  # which then cannot be dropped
    settings.write_text(settings.read_text() + "TEMPERATURE=0.1\n")
    done = backup(used, "restore", str(archive), "--files-only")
    assert done.returncode == 1
    assert "could not be restored, and nothing was changed" in done.stderr
    assert names(registry) == ["kept", "later"]
    assert "TEMPERATURE=0.1" in settings.read_text()
    os.remove(used.bin / "pg_restore")
    done = backup(used, "restore", str(archive), "--files-only")
    assert (done.returncode, "pg_restore is not here" in done.stderr) == (1, True)


def test_a_database_without_tables_is_no_failure(used, registry, tmp_path):
    """A backup before the first start has the settings."""
    done = backup(used, "create", str(tmp_path / "copy.tar.gz"))
    assert (done.returncode, "has no tables yet" in done.stdout) == (0, True), done.stderr


def test_a_database_that_is_away_is_no_backup(used, server, registry, tmp_path):
    """A backup that could not bring the database back is not made, and the reason shows no password."""
    server.stop()
    try:
        done = backup(used, "create", str(tmp_path / "copy.tar.gz"))
        with pytest.raises(DatabaseError):
            Database(server.url).engine()
    finally:
        server.start()
    assert (done.returncode, "database could not be copied" in done.stderr) == (1, True)
    assert "secret" not in done.stderr
