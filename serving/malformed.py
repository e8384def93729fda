"""The response to what never became a request: what broke off, what Gunicorn cannot parse, or could not hand over.

It has the shape of the API, is counted by its route as far as that can be read, and leaves an access line, of a flood
some do. Nothing that the client sent is logged, apart from a path and an id that can be.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from flask import Flask
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidRequestLine,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.util import write_nonblock
from werkzeug.http import HTTP_STATUS_CODES

from edge import caller, errors
from edge.failure_shapes import FailureShape, id_headers, json_body, shape_of
from edge.ready_made import request_id_of
from edge.refusal_report import RefusedRequest, report
from edge.response_headers import NO_STORE, SECURITY_HEADERS, cors_headers
from edge.route_table import row_of_rule, rule_at
from edge.services import services
from engine.errors import ServiceError, ValidationError
from serving.arrival import Unserved
from serving.connection import ClientSocket
from serving.framing import MAX_HEAD_BYTES, RequestBrokenOff, RequestTooSlow
from telemetry.access_lines import is_refusal
from telemetry.logs import request_id_var
from telemetry.metrics.prometheus import METHODS

log = logging.getLogger("avito_ai.serving")

# The first class that fits counts.
REFUSALS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (LimitRequestLine, 414, "URI Too Long", "The request line is too long."),
    (LimitRequestHeaders, 431, "Request Header Fields Too Large", "The header fields are too large."),
    (ExpectationFailed, 417, "Expectation Failed", "This expectation cannot be met."),
    (UnsupportedTransferCoding, 501, "Not Implemented", "This transfer coding is not read here."),
    (ParseException, 400, "Bad Request", "The request is malformed."),
    (RequestBrokenOff, 400, "Bad Request", "The request ended before it was whole."),
    (RequestTooSlow, 408, "Request Timeout", "The request did not arrive in time."),
)
OURS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
MAX_LINE, MAX_FIELDS = 4096, 100  # bytes of a line, and lines, that are read: this is the polling thread
ABSOLUTE = re.compile(rb"\Ahttps?://[^/?#]*", re.IGNORECASE)
BEHIND_PATH = re.compile(b"[?#]")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What can be read of a request that may be no HTTP.

    method, path: "" where the request line does not say it; claimed_id: the client's own, "" without one.
    """

    method: str
    path: str
    origin: str | None
    forwarded: list[str]
    claimed_id: str


def read_attempt(head: bytes) -> Attempt:
    """Return what the head of a request says, as far as it can be read, and of a long one in its beginning."""
    first, _, rest = head.partition(b"\r\n")
    # Those that have ended: half an id would be another one.
    fields = [field[:MAX_LINE].decode("latin-1") for field in rest.split(b"\r\n", MAX_FIELDS)[:-1]]
    method, _, asked = first[:MAX_LINE].partition(b" ")
    target = BEHIND_PATH.split(ABSOLUTE.sub(b"", asked.partition(b" ")[0], count=1), maxsplit=1)[0]
    # As bytes: in a text each run of ASCII would be unquoted by itself.
    path = "/" + unquote_to_bytes(target).decode(errors="replace").lstrip("/") if target.startswith(b"/") else ""
    values: dict[str, list[str]] = {}
    for name, _, value in (field.partition(":") for field in fields):
        values.setdefault(name.lower(), []).append(value.strip())
    origin = values.get("origin", [None])[0]
    known = method.decode("latin-1")
    claimed_id = ",".join(values.get("x-request-id", []))
    return Attempt(known if known in METHODS else "", path, origin, values.get("x-forwarded-for", []), claimed_id)


def endless(head: bytes) -> ParseException:
    """Return what is wrong with a head that has no end."""
    if len(head) <= MAX_HEAD_BYTES:
        return InvalidRequestLine("")
    return LimitRequestHeaders("") if b"\r\n" in head else LimitRequestLine(len(head), MAX_HEAD_BYTES)


class FailureResponses:
    """Responds to requests that never reached the application, or left it by an error that it did not handle."""

    def __init__(self, app: Flask) -> None:
        self._services, self._urls = services(app), app.url_map.bind("")

    def send(self, client: ClientSocket, peer: str, error: Exception) -> None:
        """Send the response to a request that ended with `error`. peer: the address of its connection."""
        try:
            write_nonblock(client, self.response(Unserved(client.request_head, peer, client.arrived), error))
        except OSError:
            log.debug("The client of a malformed request has gone.")

    def response(self, unserved: Unserved, error: Exception) -> bytes:
        """Return the response to a request that ended with `error`; it is counted and logged."""
        attempt = read_attempt(unserved.head)
        request_id = request_id_of(attempt.claimed_id)
        token = request_id_var.set(request_id)
        try:
            status, reason, shown = _refusal(error)
            level = self._services.access_lines.level_of(status) if is_refusal(status) else logging.INFO
            refused = self._refused(unserved, attempt, request_id)
            seconds = report(self._services.metrics, refused, shown, status, level)
            cors = cors_headers(self._services.settings.security.allowed_origins, attempt.origin)
            return failure_response(status, reason, shown, request_id, attempt, cors, seconds)
        finally:
            request_id_var.reset(token)

    def _refused(self, unserved: Unserved, attempt: Attempt, request_id: str) -> RefusedRequest:
        """Return what is noted of a request. One that never arrived whole has taken no time of the service."""
        parts = self._services
        address = caller.address_of(attempt.forwarded, unserved.peer, parts.settings.server.trusted_proxies)
        account = unserved.account or caller.budget_key(address)
        rule = rule_at(self._urls, attempt.method, attempt.path) if attempt.method and attempt.path else None
        row = None if rule is None else row_of_rule(attempt.method, rule)
        model = None if rule is None or row is None else parts.gate.model_of(rule, row, account, unserved.asked_model)
        began = unserved.arrived or time.monotonic()
        method, path = attempt.method or "-", attempt.path or "-"
        return RefusedRequest(request_id, began, method, path, rule, row, model, address, account, unserved.key_name)


def failure_response(
    status: int,
    reason: str,
    error: ServiceError,
    request_id: str,
    attempt: Attempt,
    cors: dict[str, str],
    seconds: float = 0.0,
) -> bytes:
    """Return a whole response; the connection is closed behind it. seconds: since the request's arrival."""
    kind, body = _body(status, error, request_id, attempt)
    fields = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        **id_headers(attempt.path, request_id),
        "X-Response-Time": f"{seconds:.3f}s",
        "Connection": "close",
        **NO_STORE,
        **SECURITY_HEADERS,
        **errors.headers_of(error, error),
        **cors,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode("latin-1") + (b"" if attempt.method == "HEAD" else body)


def _body(status: int, error: ServiceError, request_id: str, attempt: Attempt) -> tuple[str, bytes]:
    """Return type and content: a text for a path of the pages, JSON for the API's and for one that is unknown."""
    shape = shape_of(attempt.path or "/api")
    if shape is not FailureShape.PAGE:
        return "application/json", _json(json_body(shape, error, request_id, lambda message, _: message, status))
    return "text/plain; charset=utf-8", f"{error.message}\nRequest id: {request_id}\n".encode()


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def _refusal(error: Exception) -> tuple[int, str, ServiceError]:
    """Return status, reason phrase and the error that is shown; what is not the client's fault is logged."""
    if isinstance(error, OURS):
        errors.log_unexpected(error)
        return 500, HTTP_STATUS_CODES[500], errors.InternalError(errors.UNEXPECTED)
    for kind, status, reason, message in REFUSALS:
        if isinstance(error, kind):
            return status, reason, ValidationError(message)
    shown = errors.as_service_error(error)
    status = errors.meaning_of(shown).status
    return status, HTTP_STATUS_CODES[status], shown
