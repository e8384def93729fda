"""The response to what Gunicorn cannot parse, or could not hand to the application, in the API's own shape."""

from __future__ import annotations

import json
import logging
import uuid

from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.util import write_nonblock

from edge.errors import NO_MEMORY
from engine.errors import RETRY_AFTER
from serving.connection import ClientSocket

log = logging.getLogger("avito_ai.serving")

# The first class that fits counts.
REFUSALS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (LimitRequestLine, 414, "URI Too Long", "The request line is too long."),
    (LimitRequestHeaders, 431, "Request Header Fields Too Large", "The header fields are too large."),
    (ExpectationFailed, 417, "Expectation Failed", "This expectation cannot be met."),
    (UnsupportedTransferCoding, 501, "Not Implemented", "This transfer coding is not read here."),
    (ParseException, 400, "Bad Request", "The request is malformed."),
    (MemoryError, 503, "Service Unavailable", NO_MEMORY),
)
CODES = {500: "internal_error", 503: "overloaded"}
OURS = (ConfigurationProblem, InvalidResponseHeader)


def send_failure(req: Request | None, client: ClientSocket, error: BaseException) -> None:
    """Send the response to a request that ended with `error`; nothing of the request is logged."""
    refusal = next((row[1:] for row in REFUSALS if isinstance(error, row[0]) and not isinstance(error, OURS)), None)
    status, reason, message = refusal or (500, "Internal Server Error", "An internal error occurred; please try again.")
    request_id = str(uuid.uuid4())
    if refusal is None or status == 503:
        log.error("A request failed outside of the application.", exc_info=error, extra={"request_id": request_id})
    else:
        log.info("Malformed request: %d %s", status, type(error).__name__, extra={"request_id": request_id})
    try:
        write_nonblock(client, failure_response(status, reason, message, request_id))
    except OSError:
        log.debug("The client of a malformed request has gone.")


def failure_response(status: int, reason: str, message: str, request_id: str) -> bytes:
    """Return a whole response; the connection is closed behind it."""
    code = CODES.get(status, "validation_error")
    body = json.dumps({"error": code, "message": message, "request_id": request_id}).encode()
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Request-ID": request_id,
        "Connection": "close",
    }
    if status == 503:
        fields["Retry-After"] = str(RETRY_AFTER)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body
