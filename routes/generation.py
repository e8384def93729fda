"""One answer of one model: from a validated request to its text and figures, for the pages and /api/v1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge.errors import api_body
from edge.request_state import request_state
from engine.backend import Backend
from engine.types import ChatPrompt, Completion, EncodedImage, QueuePosition, SamplingParams
from routes import sse
from routes.chat.models import find_model
from routes.generation_run import Run
from routes.locale import api_sentence
from routes.request_models import TextRequest
from routes.sampling import default_sampling

KEEP_ALIVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer with its figures. Times are in seconds; total_time starts at the request's arrival.

    first_token: time to the first token, None if there was none; cut: the answer reached its maximum length.
    """

    text: str
    generated_tokens: int
    input_tokens: int
    generation_time: float
    total_time: float
    first_token: float | None = None
    cut: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, without the time in the queue; 0.0 where nothing had to be generated."""
        return self.generated_tokens / self.generation_time if self.generation_time > 0 else 0.0


def generate(model: str, body: TextRequest, image: EncodedImage | None = None) -> GenerationResult:
    """Generate an answer and wait for it. Raises the ServiceError that it fails with; a disconnect aborts it."""
    return finished(start(model, body, image).results()[0], request_state().began)


def start(model: str, body: TextRequest, image: EncodedImage | None = None) -> Run:
    """Start to generate one answer. Raises the ServiceError that it is refused with."""
    model, backend = find_model(model)
    return Run(model, backend, [(conversation(body.prompt, image), sampling(backend, body))])


def events(
    run: Run, show: Callable[[GenerationResult], Mapping[str, Any]], idle: float = KEEP_ALIVE_SECONDS
) -> Iterator[bytes]:
    """Yield the events of an answer: its text in pieces, then the body that `show` makes of the result, or its error.

    idle: seconds without text before a keep-alive, which holds the position in the queue while the request waits.
    """
    text = sse.TextEvents({"text": sse.TextEvents.HOLE})
    state, sentence = request_state(), api_sentence()

    def stream() -> Iterator[bytes]:
        try:
            for _, piece in run.pieces(idle):
                if piece is None:
                    yield sse.event(show(finished(run.completion(0), state.began)))
                elif piece.text:
                    yield text(piece.text)
                else:
                    yield b"" if piece.token_ids else _keep_alive(run.queue_position())
        except Exception as error:
            yield sse.event(api_body(run.failed(error), state.request_id, sentence))

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


def conversation(prompt: str, image: EncodedImage | None = None) -> ChatPrompt:
    """Return a conversation of one question, about an image if there is one."""
    if image is None:
        return ChatPrompt(({"role": "user", "content": prompt},))
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return ChatPrompt(({"role": "user", "content": content},), images=(image,))


def sampling(backend: Backend, body: TextRequest) -> SamplingParams:
    """Return the sampling parameters of a request: its fields, else the defaults."""
    default = default_sampling(backend)
    return replace(
        default,
        max_tokens=default.max_tokens if body.max_tokens is None else body.max_tokens,
        temperature=default.temperature if body.temperature is None else body.temperature,
    )
