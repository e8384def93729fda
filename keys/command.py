"""What `python -m keys` takes: its subcommands, and the fields of a key as an operator writes them."""

from __future__ import annotations

import argparse
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from config import MILLION
from keys.record import FIELDS, LIMITS, PRIORITIES
from keys.written import WHOLE, moment_of

DEFAULT_PRIORITY = "normal"
NONE = "none"  # takes a field back to its default
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SPAN = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
DESCRIPTION = """\
Make and manage client keys. What needs one, and what each field means, is in docs/keys.md. A key is named by its id or
its name. `none` takes a field back to its default, a time is written as 2026-12-31, 2026-12-31T18:00 (UTC) or 30d."""


def parser(now: float, called: str) -> argparse.ArgumentParser:
    """Return the parser of the command line. now: seconds since the epoch; called: what the operator types."""
    top = argparse.ArgumentParser(
        prog=called, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    make = commands.add_parser("make", help="make a key and print it, once")
    make.add_argument("name")
    make.add_argument("--line", action="store_true", help="store nothing; print the line for API_KEYS_FILE as well")
    _add_fields(make, now)
    change = commands.add_parser("set", help="change fields of a key")
    change.add_argument("key")
    change.add_argument("--name", default=argparse.SUPPRESS)
    _add_fields(change, now)
    listed = commands.add_parser("list", help="list all keys")
    shown = commands.add_parser("show", help="show one key")
    for one in (listed, shown):
        one.add_argument("--json", action="store_true", help="print a JSON object a line")
    rotate = commands.add_parser("rotate", help="give a key another secret and print it, once")
    rotate.add_argument("--grace", type=_span, default=0, help="how long the old secret stays good, such as 24h")
    for name, text in (
        ("disable", "refuse a key from now on"),
        ("enable", "accept a disabled key again"),
        ("delete", "remove a key; its usage stays"),
    ):
        commands.add_parser(name, help=text).add_argument("key")
    for one in (shown, rotate):
        one.add_argument("key")
    commands.add_parser("check", help="read a key from standard input and say whose it is")
    return top


def fields_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a key that were named."""
    return {name: value for name, value in vars(arguments).items() if name in FIELDS}


def _add_fields(command: argparse.ArgumentParser, now: float) -> None:
    def add(option: str, convert: Any, **more: Any) -> None:
        command.add_argument(option, type=convert, default=argparse.SUPPRESS, **more)

    add("--expires", lambda text: _time(text, now), dest="expires_at", metavar="TIME", help="when the key ends")
    add("--models", _names, metavar="NAMES", help="models it may use, with commas between them")
    add(
        "--priority",
        lambda text: DEFAULT_PRIORITY if text == NONE else text,
        choices=PRIORITIES,
        help="high starts before others; low runs behind them, as a batch does",
    )
    add("--notes", str, help="for you")
    for name in LIMITS:
        money = name.startswith("money")
        add(f"--{name.replace('_', '-')}", _money if money else _whole, metavar="AMOUNT" if money else "N")


def _whole(text: str) -> int | None:
    if text != NONE and not WHOLE.fullmatch(text):
        raise argparse.ArgumentTypeError("expected a whole number of at most 15 digits, or none")
    return None if text == NONE else int(text)


def _money(text: str) -> int | None:
    if text == NONE:
        return None
    try:
        amount = Decimal(text) * MILLION
        whole = int(amount)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError("expected an amount such as 25 or 0.5, or none") from error
    if amount != whole or whole < 0:
        raise argparse.ArgumentTypeError("expected an amount with at most six decimal places, or none")
    return whole


def _names(text: str) -> list[str] | None:
    return None if text == NONE else [name.strip() for name in text.split(",")]


def _span(text: str) -> int:
    match = SPAN.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("expected a span such as 90s, 15m, 24h or 30d")
    return int(match[1]) * SECONDS[match[2]]


def _time(text: str, now: float) -> int | None:
    if text == NONE:
        return None
    if SPAN.fullmatch(text):
        return int(now) + _span(text)
    try:
        return moment_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected a time such as 2026-12-31, or a span such as 30d") from error
