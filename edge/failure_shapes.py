"""In which shape a failure is sent, by the address of the request: one rule for the hooks, for refusals that are made
before them, and for what is no HTTP.

Under /v1/messages it is Anthropic's, under the rest of /v1 OpenAI's, under /api our own, and so where probes ask;
elsewhere it is a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from edge.bodies import AnthropicFailure, AnthropicFailureDetails, ApiFailure, OpenaiFailure
from edge.errors import REFUSED_FOR_NOW, Sentence, api_body, limit_of, meaning_of, openai_body
from engine.errors import ContextTooLong, ServiceError


class FailureShape(Enum):
    """The shapes of failures; the value is the address under which it is used."""

    ANTHROPIC = "/v1/messages"
    OPENAI = "/v1"
    API = "/api"
    PAGE = ""


_PLACES = [(shape, shape.value) for shape in FailureShape if shape is not FailureShape.PAGE]
_PLACES += [(FailureShape.API, place) for place in ("/health", "/ready")]
# What Anthropic's clients call a failure, by its status; any other of the client's, and any other of the service's.
ANTHROPIC_KINDS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
PROMPT_TOO_LONG = "prompt is too long"  # by which agents know that they have to shorten their conversation
# By refused field: the code on which Anthropic's clients send their request again without it.
ANTHROPIC_REMEDIES: Mapping[str, str] = {"thread": "thread_unsupported_request"}
ANTHROPIC_REFUSAL, ANTHROPIC_FAILURE = "invalid_request_error", "api_error"


def shape_of(path: str) -> FailureShape:
    """Return the shape of failures at an address."""
    for shape, place in _PLACES:
        if path == place or path.startswith(f"{place}/"):
            return shape
    return FailureShape.PAGE


def id_headers(path: str, request_id: str) -> dict[str, str]:
    """Return the headers that carry a request's id; Anthropic's clients read one of their own."""
    ours = {"X-Request-ID": request_id}
    return ours | {"Request-ID": request_id} if shape_of(path) is FailureShape.ANTHROPIC else ours


def json_body(
    shape: FailureShape, error: ServiceError, request_id: str, sentence: Sentence, status: int | None = None
) -> ApiFailure | OpenaiFailure | AnthropicFailure:
    """Return the body of a failure that is no page.

    sentence: as `api_body` takes it; status: the one that is sent, if it is not the error's own.
    """
    if shape is FailureShape.ANTHROPIC:
        return anthropic_body(error, request_id, status)
    return openai_body(error, request_id) if shape is FailureShape.OPENAI else api_body(error, request_id, sentence)


def anthropic_body(error: ServiceError, request_id: str, status: int | None = None) -> AnthropicFailure:
    """Return the body of a failure as Anthropic's clients read it. status: as for `json_body`."""
    status = meaning_of(error).status if status is None else status
    kind = ANTHROPIC_KINDS.get(status, ANTHROPIC_REFUSAL if status < 500 else ANTHROPIC_FAILURE)
    details = AnthropicFailureDetails(type=kind, message=_anthropic_message(error))
    if (code := ANTHROPIC_REMEDIES.get(getattr(error, "param", None) or "")) is not None:
        details["details"] = {"error_code": code}
    if isinstance(error, REFUSED_FOR_NOW):
        details["retry_after"] = error.retry_after
        if which := limit_of(error):
            details["details"] = which
    return AnthropicFailure(type="error", error=details, request_id=request_id)


def _anthropic_message(error: ServiceError) -> str:
    """Return the message with the field that is wrong, for which there is no field of its own."""
    if isinstance(error, ContextTooLong):
        return f"{PROMPT_TOO_LONG}: {error.message}"
    param = getattr(error, "param", None)
    return error.message if param is None or param in error.message else f"{param}: {error.message}"
