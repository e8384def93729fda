"""Copies the service's database for deploy/backup.sh, whole also while the service writes, and restores a dump.

    python database_copy.py copy SETTINGS_FILE STATE_DIR ROOT FOLDER   copy what the settings name into FOLDER, at its
                                                                      path below ROOT, by its name if it is not there;
                                                                      prints what it copied
    python database_copy.py journals SETTINGS_FILE STATE_DIR ROOT FOLDER   copy the journals of usage alone
    python database_copy.py check FOLDER                              raise an error unless the copies in it are sound
    python database_copy.py restore SETTINGS_FILE FOLDER              restore the dump in FOLDER, whole or not at all,
                                                                      into the database that the settings name
    python database_copy.py setting SETTINGS_FILE NAME                print a setting, nothing if it is not there

Nothing but Python is needed for SQLite, and pg_dump and pg_restore for PostgreSQL, of which only the service's own
tables are touched. A setting that is not there has its default. The exit status is 1 where something was not done.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

DATABASE, JOURNALS, DUMP = "avito-ai.db", "usage", "avito-ai.dump"
# Those of database/tables.py and the migrations; the database may hold others of somebody else.
TABLES = (
    "alembic_version api_keys audit budget_warnings revisions "
    "usage_accounts usage_days usage_hours usage_journals usage_users"
).split()
# A line of settings: a name, and a value in single quotes, in double ones, or without.
LINE = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*"""
    r"""(?:(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")[ \t]*(?:\#[^\r\n]*)?|([^\r\n]*))\r?$""",
    re.MULTILINE,
)
# User and password of a URL, as the service reads them.
CREDENTIALS = re.compile(r"[^:/]*(:[^@]*)?@")
MAGIC = b"SQLite format 3\0"
UNREADABLE = "DATABASE_URL cannot be read: what is no letter or digit in user and password must be percent-encoded."
LOCK_SECONDS = 30  # for which a restore waits for a copy of the service elsewhere that uses a table


class Failed(Exception):
    """What was asked for was not done; the message is for the operator."""


def main(command: str, *arguments: str) -> int:
    """Run one of the commands; return the exit status."""
    try:
        COMMANDS[command](*map(Path, arguments))
    except (Failed, sqlite3.Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def copy(settings: Path, state: Path, root: Path, folder: Path) -> None:
    """Copy the database, and then the journals that it may not have to their ends."""
    given = _read(settings)
    state = Path(given.get("STATE_DIR") or state)
    url = given.get("DATABASE_URL") or f"sqlite:///{state / DATABASE}"
    if url.startswith(("sqlite:", "sqlite+")):
        _copy_sqlite(_file_of(url), root, folder)
    else:
        _dump(url, folder / state.relative_to(root) / DUMP)
    # After the database: what it has of a journal, it never has again, and what is read twice is known by its position.
    journals(settings, state, root, folder)


def journals(settings: Path, state: Path, root: Path, folder: Path) -> None:
    """Copy the journals of usage."""
    state = Path(_read(settings).get("STATE_DIR") or state)
    if (state / JOURNALS).is_dir():
        shutil.copytree(state / JOURNALS, folder / (state / JOURNALS).relative_to(root), ignore=_gone)


def check(folder: Path) -> None:
    """Raise sqlite3.Error or Failed unless each copy of a database in the folder is sound."""
    for file in filter(_is_database, folder.rglob("*")):
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise Failed(f"{file.name}: {found}")
    for file in folder.rglob(DUMP):
        if shutil.which("pg_restore") is None:
            print("pg_restore is not here, so the dump of the database is not checked.", file=sys.stderr)
        else:
            _run("pg_restore", "--file=/dev/null", str(file))


def restore(settings: Path, folder: Path) -> None:
    """Restore the dump in a folder, if there is one, and remove it from the folder. Raises Failed."""
    for file in folder.rglob(DUMP):
        if shutil.which("pg_restore") is None:
            raise Failed("The database of the backup is a PostgreSQL, and pg_restore is not here: install it first.")
        url, environ = _address(_read(settings).get("DATABASE_URL", ""))
        environ["PGOPTIONS"] = f"{os.environ.get('PGOPTIONS', '')} -c lock_timeout={LOCK_SECONDS}s"
        whole = "--clean --if-exists --no-owner --no-privileges --single-transaction".split()
        _run("pg_restore", *whole, f"--dbname={url}", str(file), **environ)
        file.unlink()
        print("The database is restored from its dump.")


def setting(settings: Path, name: Path) -> None:
    """Print a setting."""
    print(_read(settings).get(str(name), ""))


def _read(settings: Path) -> dict[str, str]:
    """Return the settings of a file, with what stands in a file of its own for the database."""
    found = read(settings) if settings.is_file() else {}
    if found.get("DATABASE_URL_FILE"):
        found["DATABASE_URL"] = Path(found["DATABASE_URL_FILE"]).read_text(encoding="utf-8").strip()
    if found.get("DATABASE_URL", "").startswith("postgres://"):
        found["DATABASE_URL"] = found["DATABASE_URL"].replace("postgres", "postgresql", 1)
    return found


def read(settings: Path) -> dict[str, str]:
    """Return the settings of a file as the service reads them, which uses a library for it that is not needed here."""
    found = {}
    for line in LINE.finditer(settings.read_text(encoding="utf-8-sig")):
        name, single, double, bare = line.groups()
        quoted = single if single is not None else double
        value = re.sub(r"\s+#.*", "", bare) if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        found[name] = value.strip()
    return found


def _is_database(file: Path) -> bool:
    """Tell a file of SQLite by its beginning, as DATABASE_URL may name any; by its name where that is damaged."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(MAGIC)) == MAGIC or file.suffix == ".db"


def _file_of(url: str) -> Path:
    """Return the file of a URL of SQLite, whose options do not belong to it. Raises Failed."""
    name = url.partition(":///")[2].partition("?")[0]
    if name.startswith("file:"):
        name = f"/{name.removeprefix('file:').lstrip('/')}"
    if not name.startswith("/"):
        raise Failed("DATABASE_URL: expected a whole path, which begins with sqlite:////; the database is not found.")
    return Path(unquote(name))


def _copy_sqlite(file: Path, root: Path, folder: Path) -> None:
    if not file.is_file():
        print(f"There is no database {file} yet.", file=sys.stderr)
        return
    target = folder / (file.relative_to(root) if file.is_relative_to(root) else file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copied:
        source.backup(copied)
        copied.execute("PRAGMA journal_mode=DELETE")  # one file, which needs none beside it
    print(f"The database {file} is in the backup.")


def _dump(url: str, target: Path) -> None:
    if not url.startswith("postgresql") or shutil.which("pg_dump") is None:
        print("The database is not in the backup: pg_dump is not here, or it is no PostgreSQL.", file=sys.stderr)
        return
    without, environ = _address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    tables = [f"--table={name}" for name in TABLES]
    try:
        _run("pg_dump", "--format=custom", f"--file={target}", *tables, without, **environ)
    except Failed as error:
        if "no matching tables" not in str(error):
            raise
        target.unlink(missing_ok=True)
        print("The database has no tables yet.")
    else:
        print("A dump of the database is in the backup.")


def _address(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL for PostgreSQL's programs without user and password, and these as variables, which `ps` hides.

    Raises Failed where it is not certain what the password is: the rest of it would be in the command.
    """
    try:
        address = urlsplit(url)
        _ = address.port  # which is read only now
    except ValueError:
        raise Failed(UNREADABLE) from None
    credentials = CREDENTIALS.match(url.partition("://")[2])
    if (credentials and credentials.end() > len(address.netloc)) or address.netloc.count("@") > 1 or "#" in url:
        raise Failed(UNREADABLE)
    query = dict(parse_qsl(address.query))
    user = unquote(address.username or "") or query.pop("user", "")
    password = unquote(address.password or "") or query.pop("password", "")
    host = address.netloc.rpartition("@")[2]
    name = quote(unquote(address.path.removeprefix("/")), safe="")
    without = f"postgresql://{host}/{name}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    return without, {name: value for name, value in (("PGUSER", user), ("PGPASSWORD", password)) if value}


def _run(*command: str, **environ: str) -> None:
    """Run one of PostgreSQL's programs. Raises Failed with what it said."""
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C", **environ}, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip())


def _gone(folder: str, names: list[str]) -> set[str]:
    """Return what is not copied: what is no journal, and what the service has removed meanwhile."""
    return {name for name in names if not name.endswith((".log", ".lock")) or not (Path(folder) / name).is_file()}


COMMANDS: dict[str, Callable[..., None]] = {
    "copy": copy,
    "journals": journals,
    "check": check,
    "restore": restore,
    "setting": setting,
}


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:  # this file also runs where the others are not
        sys.exit(128 + signal.SIGINT)
