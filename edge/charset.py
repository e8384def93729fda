"""The character encoding of a request: texts are read as UTF-8, so a body that declares another one is refused."""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from engine.errors import UnsupportedMediaType

READ = ("utf-8", "ascii")  # ASCII is a part of UTF-8


def check_charset(parameters: Mapping[str, str]) -> None:
    """Raise UnsupportedMediaType for a charset that is not read. parameters: of a Content-Type."""
    declared = parameters.get("charset", "").strip("'\" ")
    if declared and _name(declared) not in READ:
        raise UnsupportedMediaType("Send the request in UTF-8.")


def _name(charset: str) -> str:
    """Return the canonical name of a charset, "" for one that is unknown."""
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return ""
