"""Responses to refused requests, made without the framework: the same that the hooks would send, in microseconds."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache

from werkzeug.http import HTTP_STATUS_CODES

from config import Settings
from edge import errors, failover
from edge.failure_shapes import id_headers, json_body, shape_of
from edge.rate_limit import OverBudget, Quota
from edge.request_head import RequestHead
from edge.response_headers import NO_STORE, SECURITY_HEADERS, cors_headers
from edge.route_table import Budget, Row
from engine.errors import ServiceError
from engine.types import ModelInfo
from keys.account import Account
from telemetry.logs import request_id_var
from telemetry.metrics import Metrics
from telemetry.observer import RequestObserver
from telemetry.tracing import Trace
from usage.errors import BudgetExceeded, LimitReached

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
LANGUAGE_HEADER = "X-Message-Language"

# Translates the messages under /api into a language by the value of LANGUAGE_HEADER, "" where there is none.
Sentences = Callable[[str], errors.Sentence]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that may be refused. address: of its client; account: whom it is charged to."""

    head: RequestHead
    row: Row
    address: str
    account: Account


class ReadyMade:
    """Makes refusals, counts them and writes their access lines, as the hooks do for requests that they refuse."""

    def __init__(self, settings: Settings, metrics: Metrics, sentences: Sentences) -> None:
        self._settings, self._metrics, self._sentences = settings, metrics, sentences
        self._cors = lru_cache(256)(lambda origin: _lines(cors_headers(settings.security.allowed_origins, origin)))

    def refusal(
        self, request: Refused, error: ServiceError, quota: Quota | None = None, model: ModelInfo | None = None
    ) -> bytes:
        """Return the response to a request, which is counted and logged.

        quota: what is left of its client's budget; model: the one that refuses it, if it was not refused before.
        """
        head, row = request.head, request.row
        began, request_id = time.monotonic(), request_id_of(head.get("x-request-id"))
        token = request_id_var.set(request_id)
        try:
            observer = RequestObserver(
                self._metrics,
                Trace(),
                request_id,
                began,
                row.model if model is None else model.name,
                row.protocol,
            )
            if isinstance(error, OverBudget):
                observer.over_budget(error.budget, error.window)
            if isinstance(error, BudgetExceeded | LimitReached):
                observer.over_limit(error.limit)
            meaning = errors.meaning_of(error)
            observer.failed(meaning.code, meaning.status, error.message)
            if row.budget is Budget.GENERATION:
                account = request.account
                self._metrics.busiest.count(account.id, account.name or account.id, failed=True)
            seconds = observer.responded(
                "POST",
                head.path,
                head.path,
                request.address,
                meaning.status,
                account=request.account.name,
                streamed=False,
                level=logging.INFO,
            )
        finally:
            request_id_var.reset(token)
        headers = errors.headers_of(error, error) | failover.headers_of(
            error, head.has("x-another-copy"), self._settings
        )
        headers |= {**id_headers(head.path, request_id), "X-Response-Time": f"{seconds:.3f}s"}
        if model is not None:
            headers["X-Model"] = model.served_id
        if quota is not None:
            headers |= quota.headers()
        return self._response(meaning.status, self._body(head, error, request_id), headers, head)

    def _body(self, head: RequestHead, error: ServiceError, request_id: str) -> bytes:
        sentence = self._sentences(head.get(LANGUAGE_HEADER.lower()))
        return _JSON.encode(json_body(shape_of(head.path), error, request_id, sentence)).encode() + b"\n"

    def _response(self, status: int, body: bytes, headers: dict[str, str], head: RequestHead) -> bytes:
        origin = head.get("origin") if head.has("origin") else None
        framing = {
            "Server": "gunicorn",
            "Date": _date(int(time.time())),
            "Connection": "keep-alive" if head.keeps_alive else "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
        lines = f"{_lines(framing)}{_lines(headers)}{_CONSTANT}{self._cors(origin)}"
        return f"HTTP/1.1 {status} {HTTP_STATUS_CODES[status].upper()}\r\n{lines}\r\n".encode("latin-1") + body


def request_id_of(claimed: str) -> str:
    """Return the id of a request: the client's own if it is one that can be logged, else a new one."""
    return claimed if CLIENT_ID.fullmatch(claimed) else str(uuid.uuid4())


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@lru_cache(2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_CONSTANT = _lines(SECURITY_HEADERS | NO_STORE)
