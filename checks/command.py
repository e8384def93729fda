"""The commands of `python config.py`, which without one prints all settings in force: checks, reads, changes, compares.

    python config.py --check              try what they name: Redis, database, servers, disks, models (status 1)
    python config.py get NAME ...         the value in force of one or several, secrets masked
    python config.py set NAME=VALUE ...   write to the settings file, if all settings are right then; NAME alone reads
                                          the value from standard input, which `ps` does not show
    python config.py diff [FILE]          what differs from the defaults, or from the settings in another file

The settings file is the one in ENV_FILE, else `.env` beside config.py. A running service reads it when it is reloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from checks.finding import Check, State, run
from checks.settings_file import write
from config import SETTINGS, Settings, SettingsError, apply_gpu_choice, env_file_of, load_settings, operator_settings
from settings.table import Setting

BY_NAME = {setting.name: setting for setting in SETTINGS}


class Refused(Exception):
    """What was asked for is not done; the message is for the operator."""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run one of the commands; return the exit status."""
    command, *rest = arguments
    commands = {"get": _get, "set": _set, "diff": _diff}
    try:
        if command == "--check" and not rest:
            return _check(operator_settings())
        elif command in commands:
            commands[command](rest, environ)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (SettingsError, Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _check(settings: Settings) -> int:
    """Try everything; return 1 if something has failed."""
    # Only what tries needs these; the other commands are done before they would be loaded.
    from checks.everywhere import checks_of
    from checks.machine import check_device, check_models
    from checks.outside import check_upstreams

    visible = apply_gpu_choice(settings)
    checks: dict[str, Check] = {
        "models": lambda: check_models(settings),
        "devices": lambda: check_device(settings, visible),
        "upstreams": lambda: check_upstreams(settings),
        **checks_of(settings),
    }
    findings = run(checks)
    for name, found in findings.items():
        print(f"{found.state.value:8} {name:12} {found.detail}")
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return int(any(found.state is State.FAILED for found in findings.values()))


def _get(names: list[str], environ: Mapping[str, str]) -> None:
    if not names:
        raise Refused("get takes the names of settings.")
    wanted, settings = [_named(name) for name in names], operator_settings()
    for setting in wanted:
        shown = settings.show(setting)
        print(shown if len(wanted) == 1 else f"{setting.name}={shown}")


def _set(words: list[str], environ: Mapping[str, str]) -> None:
    """Write settings; nothing is written where any setting would be wrong then."""
    if not words:
        raise Refused("set takes NAME=VALUE.")
    file, given = env_file_of(environ), dict(map(_given, words))
    others = {name: value for name, value in environ.items() if name not in given}
    write(file, given, lambda changed: load_settings(others, changed))
    print(f"{', '.join(given)}: written to {file}.")
    sources = load_settings(others, file).sources
    for name in given:
        if environ.get(name, "").strip():
            print(f"warning: {name} is set in the environment too, which takes precedence", file=sys.stderr)
        elif (other := _other_half(name, sources)) is not None:
            print(f"warning: {other} too, which takes precedence over {name}", file=sys.stderr)


def _other_half(name: str, sources: Mapping[str, str]) -> str | None:
    """Return what precedes a line of the settings file, of a secret and the file that may hold it; None if nothing."""
    setting = name if name in BY_NAME else name.removesuffix("_FILE")
    pointer, source = f"{setting}_FILE", sources.get(setting)
    if source == "environment":
        return f"{setting} is set in the environment"
    return f"{pointer} is set" if source == pointer and name == setting else None


def _given(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    pointed = name.removesuffix("_FILE")
    setting = BY_NAME.get(name) or (_named(pointed) if pointed != name else _named(name))
    if setting.name != name and not setting.secret:
        raise Refused(f"{name}: {setting.name} is no secret, and is set itself.")
    return name, (value if equals else sys.stdin.readline()).strip()


def _diff(words: list[str], environ: Mapping[str, str]) -> None:
    if len(words) > 1:
        raise Refused("diff takes at most one file.")
    settings = operator_settings()
    if words and not Path(words[0]).is_file():
        raise Refused(f"There is no file {words[0]}.")
    other = load_settings({}, Path(words[0])) if words else load_settings({}, None)
    for line in _differences(settings, other, "there" if words else "default"):
        print(line)


def _differences(settings: Settings, other: Settings, side: str) -> Iterator[str]:
    """Yield what differs, as NAME: ours, theirs; of secrets only that they do. side: what the other ones are."""
    for setting in SETTINGS:
        if _value(settings, setting) != _value(other, setting):
            ours, theirs = settings.show(setting), other.show(setting)
            yield f"{setting.name}: {ours or 'not set'} ({side} {theirs or 'not set'})"


def _value(settings: Settings, setting: Setting) -> object:
    holder = getattr(settings, setting.group) if setting.group else settings
    return getattr(holder, setting.name.lower())


def _named(name: str) -> Setting:
    if name not in BY_NAME:
        near = get_close_matches(name.upper(), BY_NAME, n=1, cutoff=0.6)
        raise Refused(f"There is no setting {name}" + (f"; did you mean {near[0]}?" if near else "."))
    return BY_NAME[name]
