"""The copy of a PostgreSQL asks for the database of the service, and tells nobody its password."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from deploy.database_copy import DUMP, main

pytestmark = pytest.mark.linux
StandIn = Callable[[str, str], None]


@pytest.fixture
def asked(tmp_path: Path, stand_in: StandIn) -> Callable[[str], tuple[int, str]]:
    """Copy the database of a URL by a pg_dump that writes what it is given; return the status, and that."""
    told = tmp_path / "told"
    stand_in("pg_dump", f'printf "%s\\n" "$@" "PGUSER=$PGUSER" "PGPASSWORD=$PGPASSWORD" >"{told}"')

    def copy(url: str) -> tuple[int, str]:
        settings = tmp_path / "settings"
        settings.write_text(f"DATABASE_URL='{url}'\n", encoding="utf-8")
        status = main("copy", str(settings), str(tmp_path / "state"), str(tmp_path), str(tmp_path / "to"))
        return status, told.read_text(encoding="utf-8") if told.exists() else ""

    return copy


@pytest.mark.parametrize(
    "rest",
    [
        "me:p%2Fa%3Fb%23c%40d@db:5433/keys",
        "me:p:q@[::1]/a%23b%20c",
        "me@db/keys?options=-c%20statement_timeout%3D5&connect_timeout=3",
        "/keys?host=/run/postgresql&user=me&password=a@b",
    ],
)
def test_the_dump_is_of_the_database_that_the_service_opens(asked: Callable[..., tuple[int, str]], rest: str) -> None:
    """User and password are in no command; the rest reads as SQLAlchemy reads it."""
    own = make_url(f"postgresql://{rest}")
    status, told = asked(f"postgresql://{rest}")
    address = conninfo_to_dict(next(line for line in told.splitlines() if line.startswith("postgresql://")))
    query = dict(own.query)
    user, password = own.username or query.pop("user", ""), own.password or query.pop("password", "")
    assert status == 0
    assert told.endswith(f"PGUSER={user}\nPGPASSWORD={password}\n")
    host, port = ({"host": own.host} if own.host else {}), ({"port": str(own.port)} if own.port else {})
    assert address == {"dbname": own.database, **host, **port, **query}


@pytest.mark.parametrize(
    "rest",
    ["me:hunter2/a@db/keys", "me:1?hunter2@db/keys", "me:1/hunter2@db/keys", "me:hunter2#a@db/keys"]
    + ["me:hunter2[@db/keys", "me:1@hunter2@db/keys", "me?hunter2@db/keys", "me:hunter2@db:bad/keys"],
)
def test_an_address_that_is_not_certain_is_refused(
    asked: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str], rest: str
) -> None:
    """No program is started, and what is said has no piece of the password."""
    assert asked(f"postgresql://{rest}") == (1, "")
    assert capsys.readouterr().err == (
        "DATABASE_URL cannot be read: what is no letter or digit in user and password must be percent-encoded.\n"
    )


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite+pysqlite:///{}?timeout=3"])
def test_a_file_is_copied_whatever_the_driver_and_the_letters_of_its_name(
    asked: Callable[..., tuple[int, str]], tmp_path: Path, url: str
) -> None:
    """SQLAlchemy reads percent-encoded letters in the path."""
    file = tmp_path / "a b#c.db"
    sqlite3.connect(file).execute("CREATE TABLE kept (value TEXT)").connection.close()
    written = url.format(str(file).replace(" ", "%20"))
    assert make_url(written).database == str(file)
    assert asked(written) == (0, "")
    assert (tmp_path / "to" / file.name).exists()
    assert not list(tmp_path.rglob(DUMP))
