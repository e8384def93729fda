"""Copies the service's database for deploy/backup.sh, whole also while the service writes, and checks such a copy.

    python database_copy.py copy SETTINGS_FILE STATE_DIR ROOT FOLDER   copy what the settings name into FOLDER, at its
                                                                      path below ROOT; prints what it copied
    python database_copy.py check FOLDER                              raise an error unless the copies in it are sound

Nothing but Python is needed for SQLite, and pg_dump for PostgreSQL. A setting that is not there has its default.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

DATABASE, JOURNALS, DUMP = "avito-ai.db", "usage", "avito-ai.dump"


def main(command: str, *arguments: str) -> int:
    """Run one of the commands; return the exit status."""
    if command == "copy":
        settings, state, root, folder = map(Path, arguments)
        return copy(settings, state, root, folder)
    check(Path(arguments[0]))
    return 0


def copy(settings: Path, state: Path, root: Path, folder: Path) -> int:
    """Copy the database, and then the journals that it may not have to their ends."""
    given = _read(settings)
    state = Path(given.get("STATE_DIR") or state)
    url = given.get("DATABASE_URL") or f"sqlite:///{state / DATABASE}"
    if url.startswith("sqlite:"):
        _copy_sqlite(Path(url.partition(":///")[2]), root, folder)
    else:
        _dump(url, folder / state.relative_to(root) / DUMP)
    # After the database: what it has of a journal, it never has again, and what is read twice is known by its position.
    if (state / JOURNALS).is_dir():
        shutil.copytree(state / JOURNALS, folder / (state / JOURNALS).relative_to(root), ignore=_gone)
    return 0


def check(folder: Path) -> None:
    """Raise sqlite3.Error or ValueError unless each copy of a database in the folder is sound."""
    for file in folder.rglob("*.db"):
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise ValueError(f"{file.name}: {found}")


def _read(settings: Path) -> dict[str, str]:
    """Return the settings of a file that say where the database is; a secret may stand in a file of its own."""
    found = {}
    if settings.is_file():
        for line in settings.read_text(encoding="utf-8").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and name in ("STATE_DIR", "DATABASE_URL", "DATABASE_URL_FILE"):
                found[name] = value.strip().strip("\"'")
    if "DATABASE_URL_FILE" in found:
        found.setdefault("DATABASE_URL", Path(found["DATABASE_URL_FILE"]).read_text(encoding="utf-8").strip())
    return found


def _copy_sqlite(file: Path, root: Path, folder: Path) -> None:
    if not file.is_file():
        return
    target = folder / file.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copied:
        source.backup(copied)
        copied.execute("PRAGMA journal_mode=DELETE")  # one file, which needs none beside it
    print(f"The database {file} is in the backup.")


def _dump(url: str, target: Path) -> None:
    if shutil.which("pg_dump") is None:
        print("The database is a PostgreSQL, and pg_dump is not here: back it up where it runs.", file=sys.stderr)
        return
    address = urlsplit(url)
    without = address._replace(scheme="postgresql", netloc=address.netloc.rpartition("@")[2]).geturl()
    who = {"PGUSER": unquote(address.username or ""), "PGPASSWORD": unquote(address.password or "")}
    target.parent.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, **{name: value for name, value in who.items() if value}}
    subprocess.run(["pg_dump", "--format=custom", f"--file={target}", without], check=True, env=environ)
    print(f"A dump of the database is in the backup: pg_restore --clean --if-exists --dbname=URL {DUMP} restores it.")


def _gone(folder: str, names: list[str]) -> set[str]:
    """Return what is not copied: what is no journal, and what the service has removed meanwhile."""
    return {name for name in names if not name.endswith((".log", ".lock")) or not (Path(folder) / name).is_file()}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
