"""The kinds of settings that are amounts of money: whole numbers of millionths of the operator's currency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from settings.kinds import MASK, MODEL_NAMES, Kind, Table, web_address

MILLION = 1_000_000
AMOUNT = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9._-]{1,63}(@[A-Za-z0-9._-]{1,63})?")  # which of them there are, the rules know
Figures = tuple[int, int, int]


def amount() -> Kind[int]:
    """A budget, above zero."""

    def parse(text: str) -> int:
        if (value := _millionths(text)) == 0:
            raise ValueError(text)
        return value

    return Kind(parse, "an amount above zero such as 25 or 0.5, with at most six decimal places", shown)


def prices() -> Kind[Mapping[str, Figures]]:
    """Prices a million tokens as input/output or input/output/cached: one for all models, or one for each by name."""

    def parse(text: str) -> Table[Figures]:
        if "=" not in text:
            return Table(dict.fromkeys(MODEL_NAMES, parse_price(text)))
        pairs = [[half.strip() for half in part.split("=")] for part in text.split(",")]
        by_name = {name: parse_price(figures) for name, figures in pairs}
        if len(by_name) < len(pairs) or not all(map(NAME.fullmatch, by_name)):
            raise ValueError(text)
        return Table(by_name)

    def show(by_name: Mapping[str, Figures]) -> str:
        texts = {name: "/".join(map(shown, figures)) for name, figures in by_name.items()}
        if by_name.keys() == set(MODEL_NAMES) and len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return ",".join(f"{name}={text}" for name, text in texts.items())

    return Kind(parse, "input/output or input/output/cached, or one for each model as avibe=0.2/0.6,avision=...", show)


def webhook() -> Kind[str]:
    """An address to which events are posted; its path is often a secret, so that only its host is shown."""
    address = web_address()

    def show(text: str) -> str:
        parts = urlsplit(text)
        return f"{parts.scheme}://{parts.hostname}/{MASK}" if parts.hostname else MASK

    return Kind(address.parse, "a URL such as https://hooks.example.com/budgets", show)


def shown(millionths: int) -> str:
    """Return an amount as everybody writes and reads it: `0.000123`, `12.5`, `3`."""
    whole, rest = divmod(abs(millionths), MILLION)
    sign = "-" if millionths < 0 else ""
    return f"{sign}{whole}.{rest:06}".rstrip("0").rstrip(".")


def _millionths(text: str) -> int:
    match = AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    return int(match[1]) * MILLION + int((match[2] or "").ljust(6, "0"))


def parse_price(text: str) -> Figures:
    """Return the prices of one model; without one of their own, cached prompt tokens cost as much as others."""
    figures = [_millionths(part) for part in text.split("/")]
    if len(figures) not in (2, 3):
        raise ValueError(text)
    return figures[0], figures[1], figures[2] if len(figures) == 3 else figures[0]
