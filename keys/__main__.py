"""`python -m keys`: makes and manages client keys, with the settings of the service.

Keys and lists go to standard output, everything else to standard error. Exit status: 0; 1 if it could not be done; 2 if
it was asked for wrongly.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while
    from terminal import end_quietly

    end_quietly()

import argparse
import json
import os
import pwd
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from config import Settings, allowable_names, as_money, settings_or_exit
from database.connect import Database, DatabaseError
from keys.command import fields_of, parser
from keys.key_file import TIMES, KeyFileError, line_of, read_keys
from keys.record import Key, KeyFieldError, key_of
from keys.refresh import REFRESH_SECONDS
from keys.registry import Actor, KeyRegistry, UnknownKey
from keys.secret import digest, id_of, new_key, same
from keys.written import in_words

NO_KEY = "This is no key of the service."
ONCE = "Copy the key now: nothing keeps it."
CHANGING = {"make", "set", "disable", "enable", "rotate", "delete"}
COUNTS_AFTER = 2 * REFRESH_SECONDS  # in which every copy of the service reads the keys


def main(
    arguments: list[str] | None = None,
    settings: Settings | None = None,
    user: int | None = None,
    called: str = "python -m keys",
    pause: Callable[[float], object] = lambda seconds: None,
) -> int:
    """Run one command and return its exit status. settings, user: the operator's, and this process's, by default.

    pause: waits so many seconds, until what was changed counts: the next command may use a key that this one has made.
    """
    asked = parser(time.time(), called).parse_args(arguments)
    settings = settings or settings_or_exit()
    try:
        _check_user(settings.data.database_url, os.geteuid() if user is None else user)
        models = allowable_names(settings.model)
        registry = KeyRegistry(Database(settings.data.database_url), models=models)
        status = COMMANDS[asked.command](asked, registry, settings)
    except KeyFieldError as error:
        return _failed(f"{error}.", 2)
    except (UnknownKey, DatabaseError, PermissionError) as error:
        return _failed(str(error.args[0]))
    except KeyFileError as error:
        return _failed(f"API_KEYS_FILE={settings.access.api_keys_file}: {error}.")
    except SQLAlchemyError as error:  # whose text may hold the URL
        return _failed(f"The database cannot be used: {type(error).__name__}.")
    if asked.command in CHANGING and not status:
        pause(COUNTS_AFTER)
    return status


def _make(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    fields = fields_of(asked)
    if asked.line:
        made = new_key()
        row = registry.columns(fields) | {"id": made.id, "hash": made.hash, "created_at": int(time.time())}
        print(made.text)
        print(line_of(key_of(row, "file")))
        return _said(f"{ONCE} The second line is for API_KEYS_FILE.")
    key, text = registry.make(_actor(), **fields)
    print(text)
    return _said(f"{ONCE} Its id is {key.id}.{_hint(settings)}")


def _set(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    fields = fields_of(asked)
    if not fields:
        return _failed("Name the fields to change; the option --help lists them.", 2)
    return _said(_shown(registry.change(_actor(), asked.key, **fields)))


def _list(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    file = settings.access.api_keys_file
    keys = registry.all()
    try:
        if file is not None:
            keys += read_keys(file, registry.models).values()
    finally:  # a mistake in the file hides no key of the database
        for key in keys:
            print(_json(key) if asked.json else f"{key.id}  {key.state(time.time()):8}  {key.source:8}  {key.name}")
    return 0 if keys else _said("There are no keys.")


def _show(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    key = _find(asked.key, registry, settings)
    print(_json(key) if asked.json else _shown(key))
    return 0


def _disable(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    return _said(f"{registry.disable(_actor(), asked.key).name} is disabled.")


def _enable(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    return _said(f"{registry.enable(_actor(), asked.key).name} is enabled.")


def _rotate(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    key, text = registry.rotate(_actor(), asked.key, asked.grace)
    print(text)
    until = key.previous_until
    return _said(f"{ONCE} The old one is good {'no longer' if until is None else f'until {in_words(until)}'}.")


def _delete(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    registry.delete(_actor(), asked.key)
    return _said("The key is deleted.")


def _check(asked: argparse.Namespace, registry: KeyRegistry, settings: Settings) -> int:
    text = sys.stdin.readline().strip()
    try:
        key = _find(id_of(text) or "", registry, settings)
    except UnknownKey:
        return _failed(NO_KEY)
    if not any(same(digest(text), one) for one in key.hashes(time.time())):
        return _failed(NO_KEY)
    print(_shown(key))
    return 0 if key.state(time.time()) == "active" else 1


COMMANDS: dict[str, Callable[[argparse.Namespace, KeyRegistry, Settings], int]] = {
    "make": _make,
    "set": _set,
    "list": _list,
    "show": _show,
    "disable": _disable,
    "enable": _enable,
    "rotate": _rotate,
    "delete": _delete,
    "check": _check,
}


def _find(id_or_name: str, registry: KeyRegistry, settings: Settings) -> Key:
    """Return a key of the database or of the file. Raises UnknownKey."""
    try:
        return registry.find(id_or_name)
    except UnknownKey:
        file = settings.access.api_keys_file
        keys = () if file is None else read_keys(file, registry.models).values()
        for key in keys:
            if id_or_name in (key.id, key.name):
                return key
        raise


def _shown(key: Key) -> str:
    """Return what is set of a key, a line each, without any digest."""
    limits = {name: value for name, value in asdict(key.account.limits).items() if value is not None}
    lines: dict[str, Any] = {"id": key.id, "name": key.name, "state": key.state(time.time()), "source": key.source}
    until = key.previous_until if len(key.hashes(time.time())) > 1 else None
    times = {
        "created": key.created_at,
        "expires": key.expires_at,
        "disabled": key.disabled_at,
        "old secret until": until,
    }
    lines |= {name: in_words(moment) for name, moment in times.items() if moment}
    lines |= {name: as_money(value) if name.startswith("money") else value for name, value in limits.items()}
    lines |= {"models": ", ".join(sorted(key.account.models or ())) or "all", "priority": key.account.priority}
    lines |= {"notes": key.notes} if key.notes else {}
    return "\n".join(f"{name.replace('_', ' '):20} {value}" for name, value in lines.items())


def _json(key: Key) -> str:
    """Return a key as JSON, without any digest; times in seconds since the epoch, money in millionths."""
    account = key.account
    models = None if account.models is None else sorted(account.models)
    times = {name: getattr(key, name) for name in TIMES}
    shown = {"id": key.id, "name": key.name, "state": key.state(time.time()), "source": key.source, **times}
    return json.dumps(
        shown | {"models": models, "priority": account.priority, "notes": key.notes} | asdict(account.limits),
        ensure_ascii=False,
    )


def _actor() -> Actor:
    """Return the person at the terminal, also behind sudo; else the system's user of this process."""
    try:
        return Actor(os.getlogin())
    except OSError:
        return Actor(name_of_user(os.geteuid()))


def name_of_user(number: int) -> str:
    """Return the name of a system's user, "#1001" for one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _check_user(url: str, user: int) -> None:
    """Raise PermissionError for root where the database is another user's file, who could then not write it."""
    parsed = make_url(url)
    if user != 0 or parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    folder = next((one for one in Path(parsed.database).absolute().parents if one.exists()), Path("/"))
    owner = folder.stat().st_uid
    if owner != 0:
        name = name_of_user(owner)
        raise PermissionError(
            f"The database is a file of the user {name}: run this as that user (sudo -u {shlex.quote(name)})."
        )


def _hint(settings: Settings) -> str:
    return "" if "keys" in settings.access.auth else " It counts once AUTH names keys."


def _said(text: str) -> int:
    print(text, file=sys.stderr)
    return 0


def _failed(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(pause=time.sleep))
