"""Responses to refused requests, made without the framework: the same that the hooks would send, in microseconds."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache

from werkzeug.http import HTTP_STATUS_CODES

from config import Settings
from edge import errors, failover
from edge.failure_shapes import id_headers, json_body, shape_of
from edge.rate_limit import Quota
from edge.refusal_report import RefusedRequest, report
from edge.request_head import RequestHead
from edge.response_headers import NO_STORE, SECURITY_HEADERS, cors_headers
from edge.route_table import Row
from engine.errors import ServiceError
from engine.types import ModelInfo
from keys.account import Account
from telemetry.access_lines import SparseLines
from telemetry.metrics import Metrics

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
log = logging.getLogger("avito_ai.access")

LANGUAGE_HEADER = "X-Message-Language"
TEMPLATES = 1024  # that are kept: by route, reason and seconds to wait
IDS_AT_ONCE = 256  # whose random bytes are asked for together: the call gives up the interpreter lock

# Translates the messages under /api into a language by the value of LANGUAGE_HEADER, "" where there is none.
Sentences = Callable[[str], errors.Sentence]


@dataclass(frozen=True, slots=True)
class _Template:
    """Parts of a response, with _ID where a request's id stands; first: those before the date."""

    first: str
    fields: str
    body: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that may be refused. address: of its client; account: whom it is charged to."""

    head: RequestHead
    row: Row
    address: str
    account: Account


class ReadyMade:
    """Makes refusals, counts them and writes their access lines, as the hooks do for requests that they refuse.

    Called by one thread. A flood has a line for some of its refusals a second; `tell_unlogged` counts the others.
    access_lines: of the refusals of the whole service.
    """

    def __init__(self, settings: Settings, metrics: Metrics, sentences: Sentences, access_lines: SparseLines) -> None:
        self._settings, self._metrics, self._sentences = settings, metrics, sentences
        self._access_lines = access_lines
        self._cors = lru_cache(256)(lambda origin: _lines(cors_headers(settings.security.allowed_origins, origin)))
        self._templates: dict[tuple[object, ...], _Template] = {}
        self._new_ids = _new_ids()

    def tell_unlogged(self) -> None:
        """Log how many refusals had no line, once their second is over."""
        self._access_lines.tell()

    def refusal(
        self, request: Refused, error: ServiceError, quota: Quota | None = None, model: ModelInfo | None = None
    ) -> bytes:
        """Return the response to a request, which is counted and logged.

        quota: what is left of its client's budget; model: the one that refuses it, if it was not refused before.
        """
        head = request.head
        began, claimed = time.monotonic(), head.get("x-request-id")
        request_id = claimed if CLIENT_ID.fullmatch(claimed) else next(self._new_ids)
        name = request.row.model if model is None else model.name
        path, row, account = head.path, request.row, request.account
        refused = RefusedRequest(
            request_id, began, "POST", path, path, row, name, request.address, account.id, account.name
        )
        status = errors.meaning_of(error).status
        seconds = report(self._metrics, refused, error, status, self._access_lines.level_of(status))
        template = self._template(head, error)
        body = template.body.replace(_ID, request_id).encode()
        origin = head.get("origin") if head.has("origin") else None
        own = f"X-Model: {model.served_id}\r\n" if model is not None else ""
        if quota is not None:
            own += _lines(quota.headers())
        lines = (
            f"{template.first}Date: {_date(int(time.time()))}\r\n"
            f"Connection: {'keep-alive' if head.keeps_alive else 'close'}\r\nContent-Length: {len(body)}\r\n"
            f"{template.fields.replace(_ID, request_id)}X-Response-Time: {seconds:.3f}s\r\n"
            f"{own}{self._cors(origin)}\r\n"
        )
        return lines.encode("latin-1") + body

    def _template(self, head: RequestHead, error: ServiceError) -> _Template:
        """Return what is the same in all refusals of this kind."""
        language, told = head.get(LANGUAGE_HEADER.lower()), head.has(failover.HEADER.lower())
        limit = tuple(errors.limit_of(error).items())
        key = (head.path, language, told, type(error), error.message, getattr(error, "retry_after", None), limit)
        found = self._templates.get(key)
        if found is None:
            if len(self._templates) >= TEMPLATES:
                self._templates.clear()
            found = self._templates[key] = self._new_template(head.path, language, told, error)
        return found

    def _new_template(self, path: str, language: str, told: bool, error: ServiceError) -> _Template:
        status = errors.meaning_of(error).status
        body = _JSON.encode(json_body(shape_of(path), error, _ID, self._sentences(language))) + "\n"
        fields = errors.headers_of(error, error) | failover.headers_of(error, told, self._settings)
        first = f"HTTP/1.1 {status} {HTTP_STATUS_CODES[status].upper()}\r\nServer: gunicorn\r\n"
        always = {"Content-Type": "application/json"} | fields | id_headers(path, _ID) | SECURITY_HEADERS | NO_STORE
        return _Template(first, _lines(always), body)


def request_id_of(claimed: str) -> str:
    """Return the id of a request: the client's own if it is one that can be logged, else a new one."""
    return claimed if CLIENT_ID.fullmatch(claimed) else str(uuid.uuid4())


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@lru_cache(2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _new_ids() -> Iterator[str]:
    """Yield ids of version 4, written without `uuid`, whose objects would be a twentieth of what a refusal costs."""
    while True:
        digits = os.urandom(16 * IDS_AT_ONCE).hex()
        for start in range(0, len(digits), 32):
            one = digits[start : start + 32]
            yield f"{one[:8]}-{one[8:12]}-4{one[13:16]}-{_VARIANT[one[16]]}{one[17:20]}-{one[20:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # RFC 9562, 4.1
_ID = str(uuid.UUID(int=0))  # what no request has
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
