"""The interface of a request's trace. `Trace` itself does nothing: it serves requests that are not traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.types import Completion, GenerationRequest


class RequestHeaders(Protocol):
    """The headers of a request, looked up by name."""

    def get(self, name: str, /) -> str | None:
        """Return the header's value; None if the request has none."""


class Trace:
    """The trace of one request. Thread-safe; calls after its end are allowed.

    It ends when the response's status is known and every hold is released, since a stream outlasts its status.
    """

    @property
    def parent(self) -> str:
        """The W3C `traceparent` for a server that is asked on behalf of the request, "" where it is not traced."""
        return ""

    def hold(self) -> Callable[[], None]:
        """Keep the trace open until the returned function is called; further calls of it do nothing."""
        return _nothing

    def validated(self, model: str, served_id: str, prompts: int, answers: int) -> None:
        """Record the model and the total numbers of prompts and answers."""

    def identified(self, response_id: str) -> None:
        """Record the id that the answer has in the response's body, where it is not the request's."""

    def submitting(self, number: int, request: GenerationRequest) -> None:
        """Record that this answer is about to be submitted to the engine, now."""

    def submitted(self, number: int) -> None:
        """Record that the engine has accepted it: prompt tokenized, images decoded."""

    def answered(self, number: int, completion: Completion) -> None:
        """Record a completed answer with the engine's timings."""

    def failed(self, code: str, status: int, message: str) -> None:
        """Record the error of the request or of one of its answers, as the client is shown it."""

    def responded(self, status: int, streamed: bool) -> None:
        """Record that the response begins with this HTTP status."""


def _nothing() -> None:
    pass
