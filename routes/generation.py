"""One answer of one model: from a validated request to text and figures, whoever asked and however it is shown."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from flask import g, request

from edge import parts
from engine.backend import Backend
from engine.types import ChatPrompt, Completion, EncodedImage, GenerationRequest, SamplingParams
from routes.schemas import TextRequest

log = logging.getLogger("avito_ai.generation")


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer with its figures. Times are in seconds; total_time begins with the request's arrival."""

    text: str
    generated_tokens: int
    input_tokens: int
    generation_time: float
    total_time: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens for each second of generation, without the wait for a place."""
        return self.generated_tokens / max(self.generation_time, 1e-9)


def answer(model: str, asked: TextRequest, image: EncodedImage | None = None) -> Answer:
    """Generate and wait. Raises the typed error that the request ends with; a client that leaves aborts it."""
    backend = parts.models().get(model)
    g.served_id = backend.info.served_id
    log.info("validated: %s", model)
    generation = backend.submit(_wanted(backend, asked, image))
    log.info("tokenized: %d prompt tokens", generation.prompt_tokens)
    with parts.client_watch().watching(request.environ, generation.abort):
        completion = generation.result()
    return _finished(model, completion)


def _finished(model: str, completion: Completion) -> Answer:
    total_time = time.monotonic() - g.began
    parts.metrics().generation_succeeded(model, completion, total_time)
    log.info("generated: %d tokens in %.3fs (%s)", completion.output_tokens, total_time, completion.finish_reason)
    return Answer(
        text=completion.text,
        generated_tokens=completion.output_tokens,
        input_tokens=completion.prompt_tokens,
        generation_time=completion.timings.total - completion.timings.queued,
        total_time=total_time,
    )


def _wanted(backend: Backend, asked: TextRequest, image: EncodedImage | None) -> GenerationRequest:
    limits = parts.settings().engine
    return GenerationRequest(
        request_id=g.request_id,
        prompt=_conversation(asked.prompt, image),
        sampling=_sampling(backend, asked),
        client=g.client,
        queue_timeout=limits.queue_timeout,
        timeout=limits.request_timeout,
    )


def _conversation(prompt: str, image: EncodedImage | None) -> ChatPrompt:
    if image is None:
        return ChatPrompt(({"role": "user", "content": prompt},))
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return ChatPrompt(({"role": "user", "content": content},), images=(image,))


def _sampling(backend: Backend, asked: TextRequest) -> SamplingParams:
    settings = parts.settings().generation
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
