"""Names of settings in older guides, each read as the setting of ours that it became.

A guide for an LLM gateway names Redis by its parts and switches debugging on by a name of its own. What such a name
says is used where its setting is not set itself, and each is told at the start with the setting to use in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

STORAGE, LEVEL = "RATE_LIMIT_STORAGE", "LOG_LEVEL"
URL, HOST, PORT = "REDIS_URL", "REDIS_HOST", "REDIS_PORT"
PASSWORD = "REDIS_PASSWORD"  # pragma: allowlist secret
USER = ("REDIS_USERNAME", "REDIS_USER")
DATABASE, TLS = "REDIS_DB", ("REDIS_SSL", "REDIS_TLS")
PARTS = (HOST, PORT, PASSWORD, *USER, DATABASE, *TLS)
SECRETS = frozenset({URL, PASSWORD})
OLD_NAMES = frozenset({URL, *PARTS, "DEBUG", *(f"{name}_FILE" for name in SECRETS)})
YES, NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})

Find = Callable[[str], str]
Found = tuple[str, str]


def translated(find: Find, texts: Mapping[str, Found], warn: Callable[[str], None]) -> dict[str, Found]:
    """Return the text and the source of each setting that old names set.

    find: the text of an old name, "" if it is not set; texts: the settings that are set by their own names.
    """
    return _storage(find, texts.get(STORAGE, ("", ""))[0], warn) | _level(find, LEVEL in texts, warn)


def _storage(find: Find, given: str, warn: Callable[[str], None]) -> dict[str, Found]:
    by_name = given.casefold() == "redis"
    named = [URL] if find(URL) else [name for name in PARTS if find(name) and not _is_link(name, find)]
    names = " and ".join(named)
    if given and not by_name:
        if named:
            warn(f"{names}: no effect, because {STORAGE} is set")
        return {}
    if by_name:
        warn(f"{STORAGE}=redis is read as the URL of {names or 'a Redis on this machine'}; set {STORAGE} to that URL")
        return {STORAGE: (find(URL) or _url(find), names or STORAGE)}
    if not find(URL) and not find(HOST):
        if named:
            warn(f"{names}: no effect without {HOST}; {STORAGE} is the URL of the Redis")
        return {}
    warn(f"{names}: read as {STORAGE}, the URL of the Redis; set that instead")
    return {STORAGE: (find(URL) or _url(find), names)}


def _is_link(name: str, find: Find) -> bool:
    """True for what Kubernetes tells every container of a service that has the name redis: tcp://ADDRESS:PORT."""
    return name == PORT and "://" in find(PORT)


def _url(find: Find) -> str:
    """Return the URL of a Redis that is named by its parts."""
    scheme = "rediss" if any(find(name).casefold() in YES for name in TLS) else "redis"
    user = next(filter(None, map(find, USER)), "")
    credentials = f"{quote(user, safe='')}:{quote(find(PASSWORD), safe='')}@" if user or find(PASSWORD) else ""
    host = find(HOST) or "127.0.0.1"
    port = "6379" if _is_link(PORT, find) else find(PORT) or "6379"
    return f"{scheme}://{credentials}{f'[{host}]' if ':' in host else host}:{port}/{find(DATABASE) or 0}"


def _level(find: Find, is_set: bool, warn: Callable[[str], None]) -> dict[str, Found]:
    wanted = find("DEBUG").casefold()
    if wanted in NO:
        return {}
    if wanted not in YES:  # other programs have a variable of this name
        warn("DEBUG: no effect, expected true or false; LOG_LEVEL=DEBUG logs more")
        return {}
    if is_set:
        warn("DEBUG=true: no effect, because LOG_LEVEL is set")
        return {}
    warn("DEBUG=true: read as LOG_LEVEL=DEBUG; set that instead")
    return {LEVEL: ("DEBUG", "DEBUG")}
