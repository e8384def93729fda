"""The kinds of values a setting can have: how each is parsed, described in an error message and shown."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import unquote, urlsplit

T = TypeVar("T")
Number = TypeVar("Number", int, float)

MASK = "********"
# A database in memory is another one in each thread.
SQLITE_FILE = re.compile(r"sqlite(\+\w+)?:///(?!(:memory:)?(\?|$))(?!file::memory:)")
ANY_COUNT = 1_000_000
LEAST_PROMPT = 64  # tokens of a context that are left to a prompt and its template; of a short one, half of it
SHORTEST_CONTEXT = 16  # tokens, the least that MAX_MODEL_LEN may be
MAX_PROMPT = 4000  # characters of a system prompt
SECONDS_A_DAY = 86_400
MODEL_NAMES = ("avibe", "avision")
ORIGIN = re.compile(r"https?://[^/?#@\s,*]+")
HOST_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$){HOST_LABEL}(\.{HOST_LABEL})*")
DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
GPU_NAME = re.compile(r"\d{1,3}|GPU-[0-9A-Fa-f-]+|MIG-[0-9A-Za-z/-]+")
KEY = re.compile(r"[!-~]{16,256}")
BEARER = re.compile(r"[!-~]{1,4096}")
SIGNING_KEY = re.compile(r"[!-~]{32,1024}")
TEXT = re.compile(r"[!-~]{1,256}")
WORD = re.compile(r"[A-Za-z0-9._-]{1,63}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
MAX_SERVED_NAME = 512  # characters
SERVED_NAME = f"1 to {MAX_SERVED_NAME} printable characters without spaces around them"
ANYTHING = re.compile(r".+")
CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
WHITE = re.compile(r"\s")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[ -~]+")


class Table(dict[str, T]):
    """A mapping that is not changed, so that settings which hold one can be keys of caches."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of setting.

    parse: text to value, raises ValueError; expected: the rest of "expected ..." in its message; show: value to text.
    """

    parse: Callable[[str], T]
    expected: str
    show: Callable[[T], str] = str


def longest_default(context: int) -> int:
    """Return how many tokens an answer without a wish may have in a context, so that a prompt has room."""
    return context - min(LEAST_PROMPT, context // 2)


def whole(low: int, high: int) -> Kind[int]:
    """A whole number from `low` to `high`."""
    return Kind(lambda text: _within(_whole(text), low, high), f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Kind[float]:
    """A finite number from `low` to `high`."""
    return Kind(lambda text: _within(float(text), low, high), f"a number from {low:g} to {high:g}", lambda v: f"{v:g}")


def choice(*names: str) -> Kind[str]:
    """One of a few names, case-insensitive."""
    by_folded = {name.casefold(): name for name in names}
    return Kind(lambda text: _pick(by_folded, text), " or ".join(names))


def switch() -> Kind[bool]:
    """True or false."""
    words = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
    return Kind(lambda text: _pick(words, text), "true or false", lambda value: str(value).lower())


def host() -> Kind[str]:
    """An address or a host name to listen on."""

    def parse(text: str) -> str:
        if not HOST_NAME.fullmatch(text) or re.fullmatch(r"[\d.]+", text):
            ipaddress.ip_address(text)
        return text

    return Kind(parse, "an IP address or a host name, without a port")


def folder() -> Kind[Path]:
    """A folder, which need not exist."""
    return Kind(Path, "a folder")


def file() -> Kind[Path]:
    """A file, which need not exist."""
    return Kind(Path, "a file")


def gpus() -> Kind[str]:
    """A value of CUDA_VISIBLE_DEVICES: comma-separated indexes, UUIDs or MIG names."""

    def parse(text: str) -> str:
        names = [name.strip() for name in text.split(",")]
        if not all(GPU_NAME.fullmatch(name) for name in names):
            raise ValueError(text)
        return ",".join(names)

    return Kind(parse, "the number, UUID (GPU-...) or MIG name (MIG-...) of a GPU; to use none, set DEVICE=cpu")


def device() -> Kind[str]:
    """The CPU, or a GPU by its number among those that CUDA shows."""

    def parse(text: str) -> str:
        if not DEVICE.fullmatch(folded := text.casefold()):
            raise ValueError(text)
        return folded

    return Kind(parse, "cpu, cuda, or a GPU such as cuda:1, counted from cuda:0 among the visible ones")


def tokens_by_model(low: int, high: int) -> Kind[Mapping[str, int]]:
    """One number of tokens for all models, or `name=number` for some of them."""

    def parse(text: str) -> Table[int]:
        if "=" not in text:
            return Table(dict.fromkeys(MODEL_NAMES, _within(_whole(text), low, high)))
        pairs = [[half.strip() for half in part.split("=")] for part in text.split(",")]
        tokens = {name: _within(_whole(number), low, high) for name, number in pairs}
        if len(tokens) < len(pairs) or not tokens.keys() <= set(MODEL_NAMES):
            raise ValueError(text)
        return Table(tokens)

    def show(tokens: Mapping[str, int]) -> str:
        figures = set(tokens.values())
        if len(figures) == 1 and len(tokens) == len(MODEL_NAMES):
            return str(figures.pop())
        return ",".join(f"{name}={number}" for name, number in tokens.items())

    names = ",".join(f"{name}=..." for name in MODEL_NAMES)
    return Kind(parse, f"a whole number from {low} to {high}, or one for each model as {names}", show)


def ways_in() -> Kind[tuple[str, ...]]:
    """`open`, or a comma-separated list of `keys` and `jwt`."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip().casefold() for name in text.split(",")))
        if names != ("open",) and not set(names) <= {"keys", "jwt"}:
            raise ValueError(text)
        return names

    return Kind(parse, "open, keys, jwt, or keys,jwt", ",".join)


def database() -> Kind[str]:
    """An SQLAlchemy URL of SQLite or PostgreSQL; shown without its password."""

    def parse(text: str) -> str:
        if text.startswith("postgres://"):  # as libpq and hosts of databases spell it
            text = text.replace("postgres", "postgresql", 1)
        scheme = urlsplit(text).scheme.partition("+")[0]
        if (
            "://" not in text
            or scheme not in ("sqlite", "postgresql")
            or (scheme == "sqlite" and not SQLITE_FILE.match(text))
        ):
            raise ValueError(text)
        if not _is_plain(text):
            raise ValueError
        return text

    expected = (
        "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME, "  # pragma: allowlist secret
        "what is no letter or digit in USER, PASSWORD and NAME percent-encoded (/ is %2F)"
    )
    return Kind(parse, expected, without_credentials)


def _is_plain(text: str) -> bool:
    """Return whether SQLAlchemy takes a URL, and where it is of a server, PostgreSQL's own programs read the same.

    The service would connect with a password that has a bare `/`, and a backup would fail. Raises ValueError.
    """
    from sqlalchemy import make_url  # here alone: most settings are read without a database
    from sqlalchemy.exc import ArgumentError

    try:
        own = make_url(text)
    except ArgumentError:
        return False
    if own.get_backend_name() == "sqlite":
        return True
    address = urlsplit(text)
    host, path = (address.hostname or "", unquote(address.path.removeprefix("/")))
    credentials = (unquote(address.username or ""), unquote(address.password or ""))
    return address.port != 0 and (
        (own.username or "", own.password or "", (own.host or "").casefold(), own.port, own.database or "")
        == (*credentials, host.casefold(), address.port, path)
        and own.query == make_url(f"postgresql:///?{address.query}").query
    )


def origins() -> Kind[tuple[str, ...]]:
    """`*`, or a comma-separated list of web origins."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if not names or (names != ("*",) and not all(ORIGIN.fullmatch(name) for name in names)):
            raise ValueError(text)
        return names

    return Kind(parse, "* or a comma-separated list such as https://example.com,http://localhost:3000", ",".join)


def key() -> Kind[str]:
    """A secret that clients send in a header; never shown."""

    def parse(text: str) -> str:
        if not KEY.fullmatch(text):
            raise ValueError
        return text

    return Kind(parse, "16 to 256 printable ASCII characters without spaces", lambda _: MASK)


def signing_key() -> Kind[str]:
    """A shared key that signs tokens, as long as its hash at least (RFC 7518, section 3.2); never shown."""

    def parse(text: str) -> str:
        if not SIGNING_KEY.fullmatch(text):
            raise ValueError
        return text

    return Kind(parse, "32 to 1024 printable ASCII characters without spaces", lambda _: MASK)


def text() -> Kind[str]:
    """A short text."""

    def parse(text: str) -> str:
        if not TEXT.fullmatch(text):
            raise ValueError(text)
        return text

    return Kind(parse, "1 to 256 printable ASCII characters without spaces")


def prompt() -> Kind[str]:
    """A text that a model reads, in any language; `\\n` in it begins a new line."""

    def parse(text: str) -> str:
        prompt = text.replace("\\n", "\n").strip()
        if not 0 < len(prompt) <= MAX_PROMPT or not all(letter == "\n" or letter.isprintable() for letter in prompt):
            raise ValueError(text)
        return prompt

    expected = f"a text of 1 to {MAX_PROMPT} characters in one line, with \\n for a new line"
    return Kind(parse, expected, lambda prompt: prompt.replace("\n", "\\n"))


def storage() -> Kind[str]:
    """`memory` or a Redis URL, shown without its credentials."""

    def parse(text: str) -> str:
        address = urlsplit(text)
        if text != "memory" and not (address.scheme in ("redis", "rediss") and address.hostname and address.port != 0):
            raise ValueError
        return text

    return Kind(parse, "memory or a URL such as redis://host:6379/0", without_credentials)


def web_address() -> Kind[str]:
    """The address of a web server, shown without its credentials."""

    def parse(text: str) -> str:
        address = urlsplit(text)
        if address.scheme not in ("http", "https") or not address.hostname or address.port == 0 or WHITE.search(text):
            raise ValueError
        return text

    return Kind(parse, "a URL such as http://127.0.0.1:4318", without_credentials)


def base_address(text: str) -> str:
    """Return a base URL of a server without its last slash. Raises ValueError for any other text, credentials too."""
    address = urlsplit(text)
    plain = address.scheme in ("http", "https") and address.hostname and address.port != 0
    if not plain or "@" in address.netloc or re.search(r"[?#\s,]", text):
        raise ValueError
    return text.rstrip("/")


def upstream() -> Kind[tuple[str, ...]]:
    """Base URLs of servers, comma-separated, or one name of a file of them."""

    def parse(text: str) -> tuple[str, ...]:
        if "/" not in text:
            return (_matching(VERSION, text),)
        urls = tuple(base_address(part.strip()) for part in text.split(","))
        if len(set(urls)) < len(urls):
            raise ValueError
        return urls

    expected = "base URLs without credentials, such as http://gpu1:8000/v1, or a name of UPSTREAMS_FILE"
    return Kind(parse, expected, ",".join)


def bearer() -> Kind[str]:
    """A key that is sent to another server; never shown."""

    def parse(text: str) -> str:
        if not BEARER.fullmatch(text):
            raise ValueError
        return text

    return Kind(parse, "1 to 4096 printable ASCII characters without spaces", lambda _: MASK)


def parse_served_name(text: str) -> str:
    """Return what a server elsewhere calls its model, which may be a path with any letters. Raises ValueError."""
    if not 1 <= len(text) <= MAX_SERVED_NAME or not text.isprintable() or text != text.strip():
        raise ValueError
    return text


def served_name() -> Kind[str]:
    """The name of a model at a server elsewhere."""
    return Kind(parse_served_name, SERVED_NAME)


def header_list() -> Kind[tuple[tuple[str, str], ...]]:
    """Headers in the form of OTEL_EXPORTER_OTLP_HEADERS, values percent-encoded; never shown."""

    def parse(text: str) -> tuple[tuple[str, str], ...]:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        headers = tuple((name.strip(), unquote(value.strip())) for name, _, value in pairs)
        if not headers or not all(HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(v) for name, v in headers):
            raise ValueError
        return headers

    return Kind(parse, "headers such as authorization=Bearer%20abc,x-tenant=1", lambda _: MASK)


def word() -> Kind[str]:
    """A short name."""

    def parse(text: str) -> str:
        if not WORD.fullmatch(text):
            raise ValueError(text)
        return text

    return Kind(parse, "1 to 63 letters, digits, dots, hyphens or underscores")


def versions() -> Kind[tuple[tuple[str, Path], ...]]:
    """Versions of a model with their folders, in order."""

    def parse(text: str) -> tuple[tuple[str, Path], ...]:
        return tuple((_matching(VERSION, name), Path(_matching(ANYTHING, folder))) for name, folder in _pairs(text))

    return Kind(parse, "versions with their folders, such as v1=/models/one,v2=/models/two", _joined)


def shares() -> Kind[tuple[tuple[str, float], ...]]:
    """Versions of a model with a percentage each."""

    def parse(text: str) -> tuple[tuple[str, float], ...]:
        pairs = _pairs(text)
        return tuple(
            (_matching(VERSION, name), _within(float(share.removesuffix("%")), 0, 100)) for name, share in pairs
        )

    def show(shares: tuple[tuple[str, float], ...]) -> str:
        return ",".join(f"{name}={share:g}" for name, share in shares)

    return Kind(parse, "versions with a percentage from 0 to 100, such as v2=10", show)


def aliases() -> Kind[tuple[tuple[str, str], ...]]:
    """Names, each with the model that it stands for."""

    def parse(text: str) -> tuple[tuple[str, str], ...]:
        return tuple((_matching(ALIAS, alias), _matching(ALIAS, target)) for alias, target in _pairs(text))

    return Kind(parse, "names with a model each, such as gpt-3.5-turbo=avibe,gpt-4o=avision", _joined)


def checkpoint_name() -> Kind[str]:
    """The name of a checkpoint, as a folder or a repository has one."""

    def parse(text: str) -> str:
        if not CHECKPOINT_NAME.fullmatch(text):
            raise ValueError(text)
        return text

    return Kind(parse, "1 to 128 letters, digits, dots, hyphens, underscores, slashes or colons")


def without_credentials(url: str) -> str:
    """Return the URL with user, password and query masked, all of it where a `?` may stand in the password."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    user, at, address = rest.rpartition("@")
    if "?" in user:
        return f"{scheme}{separator}{MASK}"
    address = re.sub(r"\?.*", f"?{MASK}", address, flags=re.DOTALL)
    return f"{scheme}{separator}{MASK if user else ''}{at}{address}"


def _pairs(text: str) -> list[tuple[str, str]]:
    """Return the halves of `name=value,name=value`. Raises ValueError."""
    halves = [part.partition("=") for part in text.split(",") if part.strip()]
    if not halves or not all(sign for _, sign, _ in halves):
        raise ValueError(text)
    return [(name.strip(), value.strip()) for name, _, value in halves]


def _matching(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


def _joined(pairs: Sequence[tuple[str, object]]) -> str:
    return ",".join(f"{name}={value}" for name, value in pairs)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(text)
    return int(text)


def _within(value: Number, low: float, high: float) -> Number:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(value)
    return value


def _pick(by_folded: Mapping[str, T], text: str) -> T:
    folded = text.casefold()
    if folded not in by_folded:
        raise ValueError(text)
    return by_folded[folded]
