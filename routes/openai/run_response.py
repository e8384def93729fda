"""What the responses of chats and plain completions have in common: the objects of their streams, and their ends."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from edge.request_state import request_state
from engine.types import Completion, Piece
from routes import sse
from routes.generation_run import Run
from routes.openai import answers
from routes.openai.requests import ChatRequest, CompletionRequest, StreamOptions
from routes.openai.running_usage import RunningUsage


class RunResponse(ABC):
    """The response with the answers of one run. Made inside the request's context; streams are sent outside of it.

    prefix: of its id; chunk_kind: the `object` of each event; prompts: how many prompts the run has.
    """

    def __init__(
        self, run: Run, body: ChatRequest | CompletionRequest, prefix: str, chunk_kind: str, prompts: int = 1
    ) -> None:
        self._run, self._chunk_kind, self._prompts = run, chunk_kind, prompts
        options = body.stream_options or StreamOptions()
        self._include_usage = bool(options.include_usage)
        counted = self._include_usage and options.continuous_usage_stats
        self._running_usage = RunningUsage(run) if counted else None
        self._request_id = request_state().request_id
        self._id, self._created = f"{prefix}-{self._request_id}", int(time.time())

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the events of the stream; an error is the last one, without [DONE]. idle: seconds to a keep-alive."""
        try:
            running = self._running_usage
            yield from running.written(self._events(idle)) if running else self._events(idle)
        except Exception as error:
            yield answers.error_event(self._run.failed(error), self._request_id)

    def chunk(self, choices: list[Any]) -> dict[str, Any]:
        """Return the object of one event."""
        shown = {
            "id": self._id,
            "object": self._chunk_kind,
            "created": self._created,
            "model": self._run.model_id,
            **answers.fingerprint(self._run.fingerprint),
            "choices": choices,
        }
        return shown | ({"usage": None} if self._include_usage else {})

    def wait(self) -> list[Completion]:
        """Wait for all answers and return them in order. Raises the error of the first that fails."""
        return self._run.results()

    @property
    def _reasoning_tokens(self) -> int | None:
        """How many tokens of the answers are reasoning, None where none can be."""
        return None

    @abstractmethod
    def _events(self, idle: float) -> Iterator[bytes]:
        """Yield the events of a stream that does not fail."""

    def _pieces(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        """Yield the pieces of the run, as `Run.pieces` does."""
        return (self._running_usage or self._run).pieces(idle)

    def _last_events(self, completions: Mapping[int, Completion]) -> Iterator[bytes]:
        """Yield what follows the answers."""
        if self._include_usage:
            ordered = [completions[index] for index in range(len(self._run))]
            usage = answers.usage(ordered, self._prompts, self._reasoning_tokens)
            if self._run.cost is not None:
                usage["cost"] = self._run.cost
            yield sse.event(self.chunk([]) | {"usage": usage})
        yield answers.DONE
