"""Pages in gzip's format, for clients that take it.

Only for pages without anything of a visitor's own beside what another could make them show (BREACH): the forms as they
look at first, and the description of the API. Their tokens differ in each response, so that a length tells nothing.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import lru_cache

from flask import Response, make_response, request

LEVEL = 5  # less than a millisecond for a page that is made anew for each visitor
KEPT = 4  # of the large pages that are the same for all


def compressed(page: bytes) -> Response:
    """Return a page that is made for this visitor."""
    return _sent(page, lambda: gzip.compress(page, LEVEL, mtime=0))


def kept_compressed(page: str) -> Response:
    """Return a page that many visitors get; it is compressed once."""
    return _sent(page, lambda: _compressed(page))


def _sent(page: str | bytes, body: Callable[[], bytes]) -> Response:
    takes = request.accept_encodings.quality("gzip") > 0
    response = make_response(body() if takes else page)
    if takes:
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    return response


@lru_cache(KEPT)
def _compressed(page: str) -> bytes:
    return gzip.compress(page.encode(), LEVEL, mtime=0)
