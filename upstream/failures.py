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
from upstream.answer import HALF, REPORTED, WITHHELD
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
    "longer than the model's context length",  # SGLang
    "tokens) exceeds the maximum allowed length",  # SGLang
    "exceeds the context length",  # Ollama
    "exceed_context_size_error",  # llama.cpp's type
    "available context size",  # llama.cpp's message
    "larger than the max context size",  # llama.cpp, of older releases
    "maximum number of tokens allowed",  # Gemini
    "prompt is too long",  # Anthropic
)
LIMITS = (ValidationError, PayloadTooLarge)  # what one server refuses and another may take


class AttemptFailed(Exception):
    """One attempt failed. error: what the client is told if it was the last.

    kind: in metrics; counts: against the server, in its breaker; repeats: whether another attempt may do better;
    retry_after: seconds that the server asks for; away: the server was not there, whatever it would have been asked;
    settings: the operator's are wrong, as it seems; breaks_off: it ended, as all of one process do that is lost.
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
    ) -> None:
        super().__init__(kind)
        self.away, self.settings, self.breaks_off = away, settings, breaks_off
        self.kind, self.error = kind, error
        self.counts, self.repeats, self.retry_after = counts, repeats, retry_after


def of_exception(error: Exception) -> AttemptFailed:
    """Return what an error of the HTTP client, or of an answer, means."""
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, UpstreamFailed) and error.message == WITHHELD:  # the server works, and would do it again
        return AttemptFailed("withheld", error, counts=False, repeats=False)
    if isinstance(error, UpstreamFailed):
        breaks_off = error.message in (HALF, REPORTED)
        return AttemptFailed("half" if error.message == HALF else "nonsense", error, breaks_off=breaks_off)
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
    if status == 429:
        return AttemptFailed("status_429", _busy(retry_after), counts=False, retry_after=retry_after)
    if status == 503 and retry_after is not None:
        return AttemptFailed("status_503", _busy(retry_after), counts=False, retry_after=retry_after)
    if status in (408, 425) or status >= 500:
        return AttemptFailed(f"status_{status}", UpstreamFailed(FAILED), retry_after=retry_after)
    if status in (400, 413, 422):
        return AttemptFailed(f"status_{status}", _refusal(status, body, context), counts=False, repeats=False)
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


def _busy(retry_after: float | None) -> Overloaded:
    return Overloaded(BUSY, math.ceil(retry_after or 1))


def _refusal(status: int, body: bytes, context: int) -> ServiceError:
    """Return the client's mistake. The server's own words are not passed on: they may tell of its inside."""
    if status == 413:
        return PayloadTooLarge("The request is too large for the server that answers for this model.")
    text, param = body.decode("utf-8", "replace").lower(), None
    if any(sign in text for sign in TOO_LONG):
        return ContextTooLong("The prompt and the answer do not fit into this model's context.", "messages", context)
    try:
        told = json.loads(body)["error"]["param"]
        param = told if isinstance(told, str) and FIELD.fullmatch(told) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return ValidationError(REFUSED, param)
