"""The errors that only HTTP knows, the table that gives every error its status, and the framework's own errors.

    RetryLater
    └── RateLimitExceeded        the client's limit is spent
    ServiceError
    ├── Unauthorized             credentials are missing or wrong
    ├── Forbidden                this caller may not use this route
    ├── NotFound                 no route has this address
    │   └── UnknownModel         no model has this name
    ├── MethodRefused            the route does not allow this method
    └── InternalError            a bug in the service
    ValidationError
    └── PreviousNotFound         no stored response of this caller has this id

What the engine raises stands in `engine.errors`, what budgets do in `usage.errors`.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from edge.bodies import ApiFailure, OpenaiFailure, OpenaiFailureDetails
from engine.errors import (
    ContextTooLong,
    DeadlineExceeded,
    Message,
    ModelError,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    RequestAborted,
    RetryLater,
    ServiceError,
    UnsupportedMediaType,
    UpstreamFailed,
    ValidationError,
    forget_frames,
)
from usage.errors import BudgetExceeded, LimitReached

log = logging.getLogger("avito_ai.failures")

# nginx's own status for a client that closed the connection; only logs show it.
CLIENT_CLOSED_REQUEST = 499


class RateLimitExceeded(RetryLater):
    """The client has spent its limit until `retry_after` seconds from now."""


class Unauthorized(ServiceError):
    """Credentials are missing or wrong."""


class Forbidden(ServiceError):
    """This caller may not use this route."""


class NotFound(ServiceError):
    """No route has this address."""


class UnknownModel(NotFound):
    """No model has this name."""

    param = "model"


class PreviousNotFound(ValidationError):
    """The request goes on from a response that is not stored for this caller."""


class MethodRefused(ServiceError):
    """The route does not allow this method."""


class InternalError(ServiceError):
    """A bug in the service; the log has the details."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """status: of HTTP; code: in the body; kind, openai_code: what OpenAI's clients call it, if they have their own."""

    status: int
    code: str
    kind: str = "invalid_request_error"
    openai_code: str | None = None


# The first class that matches counts, so a class stands before its bases.
ERRORS: dict[type[ServiceError], Meaning] = {
    ContextTooLong: Meaning(400, "validation_error", openai_code="context_length_exceeded"),
    PreviousNotFound: Meaning(400, "validation_error", openai_code="previous_response_not_found"),
    ValidationError: Meaning(400, "validation_error"),
    Unauthorized: Meaning(401, "unauthorized", "authentication_error", "invalid_api_key"),
    Forbidden: Meaning(403, "forbidden", "permission_error"),
    UnknownModel: Meaning(404, "not_found", openai_code="model_not_found"),
    NotFound: Meaning(404, "not_found"),
    MethodRefused: Meaning(405, "method_not_allowed"),
    PayloadTooLarge: Meaning(413, "payload_too_large"),
    UnsupportedMediaType: Meaning(415, "unsupported_media_type"),
    RateLimitExceeded: Meaning(429, "rate_limit_exceeded", "rate_limit_error"),
    LimitReached: Meaning(429, "rate_limit_exceeded", "rate_limit_error"),
    BudgetExceeded: Meaning(429, "budget_exceeded", "insufficient_quota", "insufficient_quota"),
    RequestAborted: Meaning(CLIENT_CLOSED_REQUEST, "request_aborted"),
    Overloaded: Meaning(503, "overloaded", "server_error"),
    NotReady: Meaning(503, "not_ready", "server_error"),
    DeadlineExceeded: Meaning(504, "deadline_exceeded", "server_error"),
    UpstreamFailed: Meaning(502, "upstream_error", "server_error"),
    ModelError: Meaning(500, "model_error", "server_error"),
    ServiceError: Meaning(500, "internal_error", "server_error"),
}

STATUSES = {meaning.code: meaning.status for meaning in ERRORS.values()}

# With status 429, and the seconds to wait in their bodies.
REFUSED_FOR_NOW = (RateLimitExceeded, BudgetExceeded, LimitReached)
# OpenAI's and Anthropic's clients read it: to ask again by themselves is no use. Some would sleep for an hour.
SHOULD_RETRY = "X-Should-Retry"
LONGEST_WAIT = 60  # seconds that such a client is to wait by itself

# Messages for the framework's own client errors; any other is a malformed request.
FRAMEWORK: dict[int, ServiceError] = {
    404: NotFound("There is nothing at this address."),
    405: MethodRefused("This address does not take this method."),
    413: PayloadTooLarge("The request body is too large."),
    415: UnsupportedMediaType("This content type is not read here."),
}


MALFORMED = "The request is malformed."

NO_MEMORY = Message("no_memory", "The service has too little memory at the moment; try again later.")
NO_RESOURCES = Message("no_resources", "The service lacks files, threads or disk space at the moment; try again later.")
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.ENOBUFS}
NO_THREAD = "can't start new thread"  # what Python's RuntimeError says
UNEXPECTED = "Something went wrong on our side. Please try again."

Sentence = Callable[[str, str], str]


def is_clients_mistake(code: str) -> bool:
    """Return whether an error of this code is answered to a request that was wrong, or too much: no failure of ours."""
    return STATUSES.get(code, 500) < 500


def meaning_of(error: ServiceError) -> Meaning:
    """Return what the error is in HTTP."""
    kind = type(error)
    if kind not in _MEANINGS:
        _MEANINGS[kind] = next(meaning for known, meaning in ERRORS.items() if issubclass(kind, known))
    return _MEANINGS[kind]


_MEANINGS: dict[type, Meaning] = {}  # of the kinds that were raised so far


def as_service_error(error: Exception) -> ServiceError:
    """Return a request's error, which ends here, as one of our tree.

    An unexpected one is logged, without any text that a client sent.
    """
    ours = _translated(error)
    forget_frames(error)
    return ours


def _translated(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, MemoryError):
        log.error("Out of memory:\n%s", "".join(traceback.format_tb(error.__traceback__)))
        return Overloaded(NO_MEMORY)
    if _exhausted(error):
        log_unexpected(error)
        return Overloaded(NO_RESOURCES)
    if isinstance(error, HTTPException) and (error.code or 500) < 500:
        return FRAMEWORK.get(error.code or 0) or ValidationError(MALFORMED)
    if _about_the_body(error):
        log.info("Malformed request body: %s", type(error).__name__)
        return ValidationError(MALFORMED)
    log_unexpected(error)
    return InternalError(UNEXPECTED)


def log_unexpected(error: BaseException) -> None:
    """Log an error's type and traceback; its text can quote the request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("Unexpected %s:\n%s", type(error).__name__, where)


def _exhausted(error: Exception) -> bool:
    """Return whether the machine has no more of something that others will give back."""
    if isinstance(error, OSError):
        return error.errno in EXHAUSTED
    return isinstance(error, RuntimeError) and str(error) == NO_THREAD


def _about_the_body(error: Exception) -> bool:
    """Return whether the server could not read the body, such as one of broken chunks.

    Gunicorn raises its own errors while a view reads. It is not imported, since the service also runs without it.
    """
    server = sys.modules.get("gunicorn.http.errors")
    return server is not None and isinstance(error, server.ParseException | server.NoMoreData)


def headers_of(error: ServiceError, original: Exception) -> dict[str, str]:
    """Return the headers that belong to a failure."""
    headers = {}
    if isinstance(error, RetryLater):
        headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, BudgetExceeded) or error.retry_after > LONGEST_WAIT:
            headers[SHOULD_RETRY] = "false"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodRefused) and isinstance(original, MethodNotAllowed) and original.valid_methods:
        headers["Allow"] = ", ".join(sorted(original.valid_methods))
    return headers


def limit_of(error: ServiceError) -> dict[str, str]:
    """Return the name of what a request is over: a setting of the service or a limit of the caller; else nothing."""
    names = {"setting": getattr(error, "setting", None), "limit": getattr(error, "limit", None)}
    return {kind: name for kind, name in names.items() if name}


def api_body(error: ServiceError, request_id: str, sentence: Sentence) -> ApiFailure:
    """Return the body of a failure under /api. sentence: translates a message, given the error's code as well."""
    code = meaning_of(error).code
    body = ApiFailure(error=code, message=sentence(error.message, code), request_id=request_id)
    if isinstance(error, REFUSED_FOR_NOW):
        body["retry_after"] = error.retry_after
        if which := limit_of(error):
            body["details"] = which
    return body


def openai_body(error: ServiceError, request_id: str) -> OpenaiFailure:
    """Return the body of a failure under /v1, in the shape that OpenAI's clients read."""
    meaning, param = meaning_of(error), getattr(error, "param", None)
    code = meaning.openai_code or meaning.code
    details = OpenaiFailureDetails(
        message=error.message, type=meaning.kind, param=param, code=code, request_id=request_id
    )
    if isinstance(error, REFUSED_FOR_NOW):
        details["retry_after"] = error.retry_after
        if which := limit_of(error):
            details["details"] = which
    return OpenaiFailure(error=details)
