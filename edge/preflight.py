"""What a browser's preflight is told: which methods the address has, and that the headers it asks for may be sent.

Credentials are never allowed, so a page gains nothing by a header that any program could send; the names are echoed.
Source: Fetch standard, CORS-preflight request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from werkzeug.datastructures import Headers

# The methods that a page may use; DELETE only where the address has it.
METHODS = ("GET", "POST", "OPTIONS")
MORE_METHODS = ("DELETE",)
NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")  # RFC 9110, section 5.6.2
MAX_NAMES = 100
MAX_AGE = 600  # seconds
METHODS_FIELD, NAMES_FIELD = "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"
AGE_FIELD = "Access-Control-Max-Age"
OURS = (METHODS_FIELD, NAMES_FIELD, AGE_FIELD)
VARY = ("Access-Control-Request-Headers", "Access-Control-Request-Method")


def is_preflight(method: str, headers: Headers) -> bool:
    """Return whether a request asks what a page may send."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def preflight_headers(asked: Headers, has: Iterable[str]) -> dict[str, str]:
    """Return what a page is allowed at an address. has: the methods of the address."""
    methods = [*METHODS, *sorted(set(MORE_METHODS).intersection(has))]
    headers = {METHODS_FIELD: ", ".join(methods), AGE_FIELD: str(MAX_AGE)}
    if names := _names(asked.get("Access-Control-Request-Headers", "")):
        headers[NAMES_FIELD] = ", ".join(names)
    return headers


def _names(listed: str) -> list[str]:
    """Return the names in a list that are names of fields, each once; a list beyond MAX_NAMES is cut."""
    names = dict.fromkeys(name.strip().lower() for name in listed.split(",", MAX_NAMES)[:MAX_NAMES])
    return [name for name in names if NAME.fullmatch(name)]
