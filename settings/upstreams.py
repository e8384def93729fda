"""The servers that answer for models in place of a checkpoint: what is known of each, and the file that names them.

UPSTREAMS_FILE is TOML, with a table `[[upstream]]` for each; docs/upstreams.md describes its keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from settings.kinds import ANY_COUNT, MODEL_NAMES, SECONDS_A_DAY, SERVED_NAME, VERSION, base_address, parse_served_name
from settings.money import Figures, parse_price
from settings.upstream_kinds import CAPABILITIES, KINDS, PROVIDERS

KEY = re.compile(r"[!-~]{1,4096}")
MAX_UPSTREAMS, MAX_URLS = 32, 64
ROLES = ("only", "first", "spare")


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server, or several that answer alike, behind one name of a model. Times are in seconds.

    name: what requests call the model; urls: base addresses, tried in this order; model: what the server calls it;
    kind: of `KINDS`; key: its bearer key, "" for none; key_file: where that stands, if in a file of its own; role:
    `only`: no checkpoint is loaded for the name; `first`: one is, for when the server cannot; `spare`: the server
    answers when the checkpoint cannot. takes: its capabilities. max_model_len, max_in_flight, timeout: 0 for what
    the settings say of all models. price: as in PRICES.
    """

    name: str
    urls: tuple[str, ...]
    model: str
    kind: str = "vllm"
    key: str = field(default="", repr=False)
    key_file: Path | None = None
    ca_file: Path | None = None
    role: str = "only"
    vision: bool = False
    takes: frozenset[str] = KINDS["vllm"]
    max_model_len: int = 0
    max_in_flight: int = 0
    connect_timeout: float = 3.0
    first_token_timeout: float = 60.0
    idle_timeout: float = 30.0
    timeout: float = 0.0
    retries: int = 2
    breaker_failures: int = 5
    breaker_seconds: float = 10.0
    probe_seconds: float = 10.0
    price: Figures | None = None

    @property
    def of_provider(self) -> bool:
        """Whether a provider answers, with models of its own, and not a server that somebody runs for one model."""
        return self.kind in PROVIDERS

    @property
    def loads(self) -> bool:
        """Whether a checkpoint is loaded for the name as well."""
        return self.role != "only"

    @property
    def extra(self) -> bool:
        """Whether the name is one that the service does not have without the server."""
        return self.name not in MODEL_NAMES


def read_upstreams(path: Path | None) -> tuple[dict[str, Upstream], list[str]]:
    """Return the servers of the file by name, and a sentence for each mistake in it."""
    if path is None:
        return {}, []
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"UPSTREAMS_FILE={str(path)!r}: expected a file that can be read ({error.strerror})"]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [f"UPSTREAMS_FILE={str(path)!r}: expected TOML ({error})"]
    found: dict[str, Upstream] = {}
    mistakes = list(_unknown("UPSTREAMS_FILE", document, {"upstream"}))
    tables = document.get("upstream", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables) or len(tables) > MAX_UPSTREAMS:
        return {}, [*mistakes, f"UPSTREAMS_FILE: expected at most {MAX_UPSTREAMS} tables [[upstream]]"]
    for number, table in enumerate(tables, 1):
        where = f"UPSTREAMS_FILE: upstream {table.get('name', number)!r}"
        one, wrong = _read(where, table)
        if one is not None and one.name in found:
            wrong.append(f"{where}: expected each name once")
        mistakes += wrong
        if one is not None and not wrong:
            found[one.name] = one
    return found, mistakes


def _read(where: str, table: Mapping[str, Any]) -> tuple[Upstream | None, list[str]]:
    mistakes = [*_unknown(where, table, {*FIELDS, "key_file", "also", "lacks"})]
    values: dict[str, Any] = {}
    for name, (parse, expected) in FIELDS.items():
        if name not in table:
            continue
        try:
            values[name] = parse(table[name])
        except (ValueError, TypeError):
            mistakes.append(f"{where}: {name}: expected {expected}")
    for name in ("name", "urls", "model"):
        if name not in table:
            mistakes.append(f"{where}: {name}: expected {FIELDS[name][1]}")
    kind = values.get("kind", "vllm")
    also, lacks = table.get("also", []), table.get("lacks", [])
    for name, some in (("also", also), ("lacks", lacks)):
        if not isinstance(some, list) or not all(isinstance(one, str) and one in CAPABILITIES for one in some):
            mistakes.append(f"{where}: {name}: expected a list of {', '.join(CAPABILITIES)}")
    try:
        values["key_file"], values["key"] = _key_in(table.get("key_file"))
    except OSError as error:
        mistakes.append(f"{where}: key_file: expected a file that can be read ({error.strerror})")
    except (ValueError, TypeError):
        mistakes.append(f"{where}: key_file: expected the path of a file that holds one key")
    if mistakes:
        return None, mistakes
    return Upstream(**values, takes=(KINDS[kind] | frozenset(also)) - frozenset(lacks)), []


def parse_key(text: str) -> str:
    """Return the one key in a file's text. Raises ValueError."""
    if not KEY.fullmatch(text.strip()):
        raise ValueError
    return text.strip()


def _key_in(file: object) -> tuple[Path | None, str]:
    if file is None:
        return None, ""
    if not isinstance(file, str):
        raise TypeError(file)
    return Path(file), parse_key(Path(file).read_text(encoding="utf-8"))


def _unknown(where: str, table: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for name in table:
        if name not in known:
            yield f"{where}: {name!r} is none of {', '.join(sorted(known))}"


def _text(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return str(value)

    return parse


def _served_name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return parse_served_name(value)


def _seconds(low: float, high: float = SECONDS_A_DAY) -> tuple[Callable[[Any], float], str]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError
        return float(value)

    return parse, f"seconds from {low:g} to {high:g}"


def _count(low: int, high: int = ANY_COUNT) -> tuple[Callable[[Any], int], str]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return parse, f"a whole number from {low} to {high}"


def _urls(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(value)
    if not 1 <= len(texts) <= MAX_URLS or len(set(texts)) < len(texts):
        raise ValueError
    return tuple(base_address(text) for text in texts)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _price(value: Any) -> Figures:
    if not isinstance(value, str):
        raise TypeError(value)
    return parse_price(value)


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError
    return str(value)


FIELDS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "name": (_text(VERSION), "1 to 32 letters, digits, dots, hyphens or underscores"),
    "urls": (_urls, f"1 to {MAX_URLS} different base addresses such as http://gpu1:8000/v1"),
    "model": (_served_name, f"the name of the model at the server, {SERVED_NAME}"),
    "kind": (_kind, " or ".join(KINDS)),
    "ca_file": (Path, "the path of a file of certificates"),
    "vision": (_switch, "true or false"),
    "max_model_len": _count(16),
    "max_in_flight": _count(1, 65_536),
    "connect_timeout": _seconds(0.01, 600),
    "first_token_timeout": _seconds(0.01),
    "idle_timeout": _seconds(0.01),
    "timeout": _seconds(0.01),
    "retries": _count(0, 10),
    "breaker_failures": _count(1, 1000),
    "breaker_seconds": _seconds(0.01, 3600),
    "probe_seconds": _seconds(0, 3600),
    "price": (_price, "input/output or input/output/cached for a million tokens, as in PRICES"),
}


def upstreams_of(
    stated: Mapping[str, tuple[tuple[str, ...] | None, str | None, str | None, str]], path: Path | None
) -> tuple[dict[str, Upstream], list[str]]:
    """Return the upstream of each model, and a sentence for each mistake.

    stated: by the prefix of a model's settings, its URLs or the name of an entry of the file, the name there, the key
    and the role. An entry that a model names answers for that model alone.
    """
    entries, mistakes = read_upstreams(path)
    found: dict[str, Upstream] = {}
    used = set()
    for (prefix, (where, model, key, role)), name in zip(stated.items(), MODEL_NAMES, strict=True):
        if where is None:
            continue
        if "/" in where[0]:
            one = Upstream(name, where, model or name)
        elif where[0] in entries:
            one = entries[where[0]]
            used.add(one.name)
        else:
            known = ", ".join(entries) or "none, because it is not set"
            mistakes += [f"{prefix}_UPSTREAM={where[0]}: expected base URLs, or a name of UPSTREAMS_FILE ({known})"]
            continue
        found[name] = replace(
            one,
            name=name,
            vision=prefix == "VISION",
            role=role,
            model=model or one.model,
            key=key or one.key,
            key_file=None if key else one.key_file,
        )
    rest = {name: one for name, one in entries.items() if name not in used}
    taken = [name for name in rest if name.removesuffix("-demo") in MODEL_NAMES]
    mistakes += [f"UPSTREAMS_FILE: upstream {name!r}: expected a name that is not this service's own" for name in taken]
    return {**found, **rest}, mistakes
