"""One answer of one model: from a validated request to text and figures, whoever asked and however it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge.errors import api_body
from edge.request_state import request_state
from engine.backend import Backend
from engine.types import ChatPrompt, Completion, EncodedImage, QueuePosition, SamplingParams
from routes import sse
from routes.generation_run import Run
from routes.request_models import TextRequest
from routes.services import services

SIGN_OF_LIFE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer with its figures. Times are in seconds; total_time begins with the request's arrival.

    first_token: until the first one was made, None where there was none; cut: the answer reached its greatest length.
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
        """New tokens for each second of generation, without the wait for a place."""
        return self.generated_tokens / max(self.generation_time, 1e-9)


def answer(model: str, asked: TextRequest, image: EncodedImage | None = None) -> Answer:
    """Generate and wait. Raises the typed error that the request ends with; a client that leaves aborts it."""
    return finished(begin(model, asked, image).results()[0], request_state().began)


def begin(model: str, asked: TextRequest, image: EncodedImage | None = None) -> Run:
    """Begin to generate one answer. Raises the typed error that it is refused with."""
    backend = services().models.get(model)
    return Run(model, backend, [(conversation(asked.prompt, image), sampling(backend, asked))])


def events(
    run: Run, show: Callable[[Answer], Mapping[str, Any]], idle: float = SIGN_OF_LIFE_SECONDS
) -> Iterator[bytes]:
    """Yield the events of an answer: its text as it comes, then what `show` makes of all of it, or else its error.

    idle: seconds without a text to a sign of life; while the request waits, that tells its place in the queue.
    """
    text = sse.TextEvents({"text": sse.TextEvents.HOLE})
    state = request_state()

    def made() -> Iterator[bytes]:
        try:
            for _, piece in run.pieces(idle):
                if piece is None:
                    yield sse.event(show(finished(run.completion(0), state.began)))
                elif piece.text:
                    yield text(piece.text)
                elif not piece.token_ids:
                    yield _sign_of_life(run.queue_position())
        except Exception as error:
            yield sse.event(api_body(run.failed(error), state.request_id))

    return made()


def _sign_of_life(queue_position: QueuePosition | None) -> bytes:
    """Return a comment, which every client of event streams passes over; the page reads the place in it."""
    if queue_position is None:
        return sse.KEEP_ALIVE
    position = {"before": queue_position.ahead, "seconds": round(queue_position.eta_seconds, 1)}
    return sse.comment(f"queue {sse.compact(position)}")


def finished(completion: Completion, began: float) -> Answer:
    """Return an answer that has ended with its figures. began: of the request, on the monotonic clock."""
    return Answer(
        text=completion.text,
        generated_tokens=completion.output_tokens,
        input_tokens=completion.prompt_tokens,
        generation_time=completion.timings.total - completion.timings.queued,
        total_time=time.monotonic() - began,
        first_token=completion.timings.first_token,
        cut=completion.finish_reason == "length",
    )


def conversation(prompt: str, image: EncodedImage | None = None) -> ChatPrompt:
    """Return a single question, about a picture if there is one."""
    if image is None:
        return ChatPrompt(({"role": "user", "content": prompt},))
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return ChatPrompt(({"role": "user", "content": content},), images=(image,))


def sampling(backend: Backend, asked: TextRequest) -> SamplingParams:
    """Return how the answer is chosen: as asked, else by the settings and the checkpoint."""
    settings = services().settings.generation
    default_length = settings.max_tokens_avision if backend.info.vision else settings.max_tokens_avibe
    of_checkpoint = backend.info.generation_defaults
    return SamplingParams(
        max_tokens=default_length if asked.max_tokens is None else asked.max_tokens,
        temperature=settings.temperature if asked.temperature is None else asked.temperature,
        top_p=float(of_checkpoint.get("top_p", 1.0)),
        top_k=int(of_checkpoint.get("top_k", 0)),
        min_p=float(of_checkpoint.get("min_p", 0.0)),
        repetition_penalty=float(of_checkpoint.get("repetition_penalty", 1.0)),
    )
