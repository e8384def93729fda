"""One answer of one model: from a validated request to its text and figures, for the pages and /api/v1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edge.errors import api_body
from edge.request_state import request_state
from engine.backend import Backend
from engine.types import Completion, EncodedImage, QueuePosition, SamplingParams
from routes import sse
from routes.chat.models import find_model
from routes.conversation import conversation, fitting
from routes.generation_run import Run
from routes.locale import api_sentence
from routes.request_models import TextRequest, Turn
from routes.sampling import default_sampling
from routes.system_prompt import system_prompt

KEEP_ALIVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer with its figures. Times are in seconds; total_time starts at the request's arrival.

    first_token: time to the first token, None if there was none; cut: the answer reached its maximum length;
    dropped_turns: of the conversation, which did not fit; None where it has no earlier turns. cost: in the operator's
    currency, None without prices.
    """

    text: str
    generated_tokens: int
    input_tokens: int
    generation_time: float
    total_time: float
    first_token: float | None = None
    cut: bool = False
    dropped_turns: int | None = None
    cost: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, without the time in the queue; 0.0 where nothing had to be generated."""
        return self.generated_tokens / self.generation_time if self.generation_time > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """An answer that is being generated. began: the request's arrival on the monotonic clock, in seconds."""

    run: Run
    began: float
    dropped_turns: int | None

    def result(self) -> GenerationResult:
        """Return the answer, which has ended. Raises the ServiceError that it failed with."""
        return self._of(self.run.completion(0))

    def waited_for(self) -> GenerationResult:
        """Wait for the answer and return it. Raises the ServiceError that it fails with."""
        return self._of(self.run.results()[0])

    def _of(self, completion: Completion) -> GenerationResult:
        return replace(finished(completion, self.began), dropped_turns=self.dropped_turns, cost=self.run.cost)


def generate(
    model: str, body: TextRequest, images: Sequence[EncodedImage] = (), history: Sequence[Turn] = ()
) -> GenerationResult:
    """Generate an answer and wait for it. Raises the ServiceError that it fails with; a disconnect aborts it."""
    return start(model, body, images, history).waited_for()


def start(
    model: str, body: TextRequest, images: Sequence[EncodedImage] = (), history: Sequence[Turn] | None = None
) -> Started:
    """Start to generate one answer. Raises the ServiceError that it is refused with.

    history: the turns that the question goes on from; the oldest are dropped where they do not fit the context.
    """
    model, backend = find_model(model)
    begun = partial(conversation, body.prompt, images, system=system_prompt(model))
    parameters, turns = sampling(backend, body), history or ()
    kept = fitting(backend, begun, turns, parameters.max_tokens)
    run = Run(model, backend, [(begun(kept), parameters)])
    return Started(run, request_state().began, len(turns) - len(kept) if turns else None)


def events(
    started: Started, show: Callable[[GenerationResult], Mapping[str, Any]], idle: float = KEEP_ALIVE_SECONDS
) -> Iterator[bytes]:
    """Yield the events of an answer: its text in pieces, then the body that `show` makes of the result, or its error.

    idle: seconds without text before a keep-alive, which holds the position in the queue while the request waits.
    """
    text = sse.TextEvents({"text": sse.TextEvents.HOLE})
    run, request_id, sentence = started.run, request_state().request_id, api_sentence()

    def stream() -> Iterator[bytes]:
        try:
            for _, piece in run.pieces(idle):
                if piece is None:
                    yield sse.event(show(started.result()))
                elif piece.text:
                    yield text(piece.text)
                else:
                    yield b"" if piece.token_ids else _keep_alive(run.queue_position())
        except Exception as error:
            yield sse.event(api_body(run.failed(error), request_id, sentence))

    return stream()


def _keep_alive(queue_position: QueuePosition | None) -> bytes:
    """Return a comment, which event stream clients ignore; the page reads the queue position in it."""
    if queue_position is None:
        return sse.KEEP_ALIVE
    position = {"before": queue_position.ahead, "seconds": round(queue_position.eta_seconds, 1)}
    return sse.comment(f"queue {sse.compact(position)}")


def finished(completion: Completion, began: float) -> GenerationResult:
    """Return a finished answer with its figures. began: the request's arrival on the monotonic clock."""
    return GenerationResult(
        text=completion.text,
        generated_tokens=completion.output_tokens,
        input_tokens=completion.prompt_tokens,
        generation_time=completion.timings.total - completion.timings.queued,
        total_time=time.monotonic() - began,
        first_token=completion.timings.first_token,
        cut=completion.finish_reason == "length",
    )


def sampling(backend: Backend, body: TextRequest) -> SamplingParams:
    """Return the sampling parameters of a request: its fields, else the defaults."""
    default = default_sampling(backend)
    return replace(
        default,
        max_tokens=default.max_tokens if body.max_tokens is None else body.max_tokens,
        temperature=default.temperature if body.temperature is None else body.temperature,
        names_temperature=body.temperature is not None,
    )
