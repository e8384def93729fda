"""What a request tells its trace. `Trace` itself hears and forgets: it is the trace of a request without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.types import Completion, GenerationRequest


class RequestHeaders(Protocol):
    """The headers of a request, looked up by name."""

    def get(self, name: str, /) -> str | None:
        """Return the header's value; None if the request has none."""


class Trace:
    """The trace of one request. Any thread may tell it something, in any order, also when it is over.

    It ends when the response's status is known and everybody who holds it has let go: a stream goes on after that.
    """

    def hold(self) -> Callable[[], None]:
        """Keep the trace open; return what lets go of it, once, however often it is called."""
        return _nothing

    def asked(self, model: str, served_id: str, prompts: int, wanted: int) -> None:
        """Note which model is asked for how many answers, to how many prompts."""

    def submits(self, number: int, request: GenerationRequest) -> None:
        """Note that the model is about to be given this answer to make, now."""

    def submitted(self, number: int) -> None:
        """Note that the model has taken it: its prompt is in tokens, its pictures are decoded."""

    def answered(self, number: int, completion: Completion) -> None:
        """Note an answer, with the engine's own account of its time."""

    def failed(self, code: str, status: int, message: str) -> None:
        """Note the error, in the words of its answer, that the request or one of its answers ended with."""

    def responded(self, status: int, streamed: bool) -> None:
        """Note that the response begins, with this HTTP status."""


def _nothing() -> None:
    pass
