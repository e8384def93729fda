"""The engine's sampling parameters of a request: its fields, else the checkpoint's values, else neutral ones."""

from __future__ import annotations

from dataclasses import replace

from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import SamplingParams
from routes.openai.requests import ChatRequest, SamplingRequest
from routes.openai.structured_output import NewMask
from routes.services import services


def length_of(backend: Backend, body: SamplingRequest) -> int:
    """Return the maximum number of tokens of an answer. Raises ValidationError if two fields contradict each other."""
    requested = body.max_tokens
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        if requested is not None and requested != body.max_completion_tokens:
            raise ValidationError("max_tokens and max_completion_tokens contradict each other.", "max_tokens")
        requested = body.max_completion_tokens
    if requested is not None:
        return requested
    defaults = services().settings.generation
    return defaults.max_tokens_avision if backend.info.vision else defaults.max_tokens_avibe


def check_stream_options(body: SamplingRequest) -> None:
    """Raise ValidationError for stream options without a stream."""
    if body.stream_options is not None and not body.stream:
        raise ValidationError("stream_options needs stream to be true.", "stream_options")


def choices(
    backend: Backend, body: SamplingRequest, logprobs: int | None, new_mask: NewMask = lambda: None
) -> list[SamplingParams]:
    """Return the parameters of each answer to one prompt; seeds differ, or all answers would be the same.

    logprobs: the number of alternatives for each token, None for no log probabilities.
    """
    first = _sampling(backend, body, logprobs)
    seeds = [None if first.seed is None else first.seed + number for number in range(body.n or 1)]
    return [replace(first, seed=seed, token_mask=new_mask()) for seed in seeds]


def _sampling(backend: Backend, body: SamplingRequest, logprobs: int | None) -> SamplingParams:
    own = backend.info.generation_defaults
    default = services().settings.generation.temperature
    return SamplingParams(
        max_tokens=length_of(backend, body),
        temperature=default if body.temperature is None else float(body.temperature),
        top_p=float(own.get("top_p", 1.0)) if body.top_p is None else float(body.top_p),
        top_k=int(own.get("top_k", 0)) if body.top_k is None else max(0, body.top_k),
        min_p=float(own.get("min_p", 0.0)) if body.min_p is None else float(body.min_p),
        presence_penalty=float(body.presence_penalty or 0.0),
        frequency_penalty=float(body.frequency_penalty or 0.0),
        repetition_penalty=(
            float(own.get("repetition_penalty", 1.0))
            if body.repetition_penalty is None
            else float(body.repetition_penalty)
        ),
        logit_bias={int(token): float(bias) for token, bias in (body.logit_bias or {}).items()},
        seed=body.seed,
        stop=_stops(body),
        logprobs=logprobs,
        ignore_eos=bool(body.ignore_eos),
    )


def _stops(body: SamplingRequest) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
