"""What may go wrong with one attempt at a server, and what follows from it: for the client, the breaker and a retry."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp

from engine.errors import (
    ContextTooLong,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    ServiceError,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationError,
)
from upstream.answer import HALF, WITHHELD, BrokenOff, ReportedError, Withheld
from upstream.calls import NONSENSE

log = logging.getLogger("avito_ai.upstream")

UNREACHABLE = "The server that answers for this model cannot be reached."
FAILED = "The server that answers for this model failed."
SILENT = "The server that answers for this model did not answer in time."
BUSY = "The server that answers for this model is at capacity; try again later."
REFUSED = "The server that answers for this model refused the request."
AWAY = "No server that answers for this model can be reached; try again later."

MOST_RETRY_AFTER = 60.0  # seconds
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]]{0,63}")
TOO_LONG = (  # in what servers say of a request that does not fit, in lower case
    "context_length_exceeded",  # OpenAI's code
    "maximum context length",  # OpenAI, vLLM, SGLang and Ollama
    "maximum model length",  # vLLM, of a prompt
    "context window",  # OpenAI's newer models, and llama-cpp-python
    "context length is only",  # vLLM before 0.32
    "longer than the model's context length",  # SGLang
    "tokens) exceeds the maximum allowed length",  # SGLang
    "exceeds the context length",  # Ollama
    "exceed_context_size_error",  # llama.cpp's type
    "available context size",  # llama.cpp's message
    "larger than the max context size",  # llama.cpp, of older releases
    "maximum number of tokens allowed",  # Gemini
    "prompt is too long",  # Anthropic
)
# How providers begin what they say of the operator's key or account, with whatever status, and their codes for it; in
# lower case. Not elsewhere in what they say: a refusal may repeat what a client has sent.
ACCOUNT = (
    "api key not valid",  # Gemini, with 400
    "api key expired",
    "your credit balance is too low",  # Anthropic, with 400
    "insufficient balance",  # DeepSeek
)
ACCOUNT_CODES = ("insufficient_quota", "api_key_invalid", "billing_not_active", "account_deactivated")
# How gateways and providers name their own filter, which has stopped what a client sent: as a code, OpenAI, Azure and
# OpenRouter; beside the message, OpenRouter, of a provider's moderation.
WITHHELD_CODES = ("content_filter", "content_policy_violation", "flagged_input", "moderation_blocked")
WITHHELD_BESIDE = ("reasons", "flagged_input")
NO_ERROR = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)  # a refusal is not that JSON
LIMITS = (ValidationError, PayloadTooLarge)  # what one server refuses and another may take


class AttemptFailed(Exception):
    """One attempt failed. error: what the client is told if it was the last.

    kind: in metrics; counts: against the server, in its breaker; repeats: whether another attempt may do better;
    retry_after: seconds that the server asks for; away: the server was not there, whatever it would have been asked;
    settings: the operator's are wrong, as it seems; breaks_off: it ended, as all of one process do that is lost; said:
    what the server has said in refusing the request, in lower case, which no client is shown; None where it has not.
    """

    def __init__(
        self,
        kind: str,
        error: ServiceError,
        counts: bool = True,
        repeats: bool = True,
        retry_after: float | None = None,
        away: bool = False,
        settings: bool = False,
        breaks_off: bool = False,
        said: str | None = None,
    ) -> None:
        super().__init__(kind)
        self.said = said
        self.away, self.settings, self.breaks_off = away, settings, breaks_off
        self.kind, self.error = kind, error
        self.counts, self.repeats, self.retry_after = counts, repeats, retry_after


def of_exception(error: Exception, context: int = 0) -> AttemptFailed:
    """Return what an error of the HTTP client, or of an answer, means. context: in tokens."""
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, Withheld):
        return AttemptFailed("withheld", error, counts=False, repeats=False)
    if isinstance(error, ReportedError) and error.status is not None:  # the status of the stream came before it
        failure = of_status(error.status, None, error.body, context)
        failure.breaks_off = True
        return failure
    if isinstance(error, UpstreamFailed):
        half = isinstance(error, BrokenOff)
        return AttemptFailed("half" if half else "nonsense", error, breaks_off=half or isinstance(error, ReportedError))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return AttemptFailed("timeout", UpstreamTimedOut(SILENT), away=True)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return AttemptFailed("timeout", UpstreamTimedOut(SILENT))
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
        return AttemptFailed("connect", UpstreamFailed(UNREACHABLE), away=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return AttemptFailed("half", UpstreamFailed(HALF), breaks_off=True)
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return AttemptFailed("reset", UpstreamFailed(FAILED), breaks_off=True)
    return AttemptFailed("nonsense", UpstreamFailed(NONSENSE))


def of_status(status: int, retry_after: float | None, body: bytes, context: int) -> AttemptFailed:
    """Return what a status that is no success means. body: the beginning of what came with it; context: in tokens."""
    said = body.decode("utf-8", "replace").lower()
    if 400 <= status < 500 and _is_of_account(said):
        return AttemptFailed(f"status_{status}", UpstreamFailed(FAILED), settings=True)
    if status == 403 and _is_withheld(said):
        return of_exception(Withheld(WITHHELD))
    if status == 429:
        return AttemptFailed("status_429", _busy(retry_after), counts=False, retry_after=retry_after)
    if status == 503 and retry_after is not None:
        return AttemptFailed("status_503", _busy(retry_after), counts=False, retry_after=retry_after)
    if status in (408, 425) or status >= 500:
        return AttemptFailed(f"status_{status}", UpstreamFailed(FAILED), retry_after=retry_after)
    if status in (400, 413, 422):
        refusal = _refusal(status, body, said, context)
        return AttemptFailed(f"status_{status}", refusal, counts=False, repeats=False, said=said)
    # What is left is about the settings: a key, a name or an address that is wrong, or a redirect.
    if 300 <= status < 500:
        return AttemptFailed(f"status_{status}", UpstreamFailed(FAILED), settings=True)
    return AttemptFailed("nonsense", UpstreamFailed(FAILED))


def retry_after_of(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After`, as a number or a date (RFC 9110, section 10.2.3), None for nonsense."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time()  # all are in GMT
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), MOST_RETRY_AFTER) if math.isfinite(seconds) else None


def away(seconds: float) -> NotReady:
    """Return the refusal while no server can be asked."""
    return NotReady(AWAY, math.ceil(seconds))


def _is_of_account(said: str) -> bool:
    """Return whether a refusal is about the operator's key or account. said: it, in lower case."""
    try:
        error = _error_in(said)
        reasons = [detail.get("reason") for detail in error.get("details") or () if isinstance(detail, dict)]
        codes = (error.get("code"), error.get("type"), error.get("status"), *reasons)
        return str(error.get("message", "")).startswith(ACCOUNT) or any(code in ACCOUNT_CODES for code in codes)
    except NO_ERROR:
        return False


def _is_withheld(said: str) -> bool:
    """Return whether a refusal is that of a filter, of what a client sent. said: it, in lower case."""
    try:
        error = _error_in(said)
        beside = error.get("metadata") or {}
        codes = error.get("code"), error.get("type")
        return any(code in WITHHELD_CODES for code in codes) or any(beside.get(name) for name in WITHHELD_BESIDE)
    except NO_ERROR:
        return False


def _error_in(said: str) -> Any:
    """Return the error that a refusal tells as JSON. Raises one of NO_ERROR."""
    told = json.loads(said)
    return (told[0] if isinstance(told, list) else told)["error"]


def is_too_long(said: str) -> bool:
    """Return whether a refusal is about the context. said: it, in lower case."""
    return any(sign in said for sign in TOO_LONG)


def _busy(retry_after: float | None) -> Overloaded:
    return Overloaded(BUSY, math.ceil(retry_after or 1))


def _refusal(status: int, body: bytes, said: str, context: int) -> ServiceError:
    """Return the client's mistake. The server's own words are not passed on: they may tell of its inside."""
    if status == 413:
        return PayloadTooLarge("The request is too large for the server that answers for this model.")
    param = None
    if is_too_long(said):
        return ContextTooLong("The prompt and the answer do not fit into this model's context.", "messages", context)
    try:
        told = json.loads(body)["error"]["param"]
        param = told if isinstance(told, str) and FIELD.fullmatch(told) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return ValidationError(REFUSED, param)
