"""From a request's sampling fields to the engine's: the caller's word, else the checkpoint's own, else neutral."""

from __future__ import annotations

from dataclasses import replace

from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import SamplingParams
from routes.openai.requests import ChatRequest, SamplingRequest
from routes.openai.structured_output import NewMask
from routes.services import services


def length_of(backend: Backend, asked: SamplingRequest) -> int:
    """Return how many tokens an answer may have. Raises ValidationError where two fields contradict each other."""
    wanted = asked.max_tokens
    if isinstance(asked, ChatRequest) and asked.max_completion_tokens is not None:
        if wanted is not None and wanted != asked.max_completion_tokens:
            raise ValidationError("max_tokens and max_completion_tokens contradict each other.", "max_tokens")
        wanted = asked.max_completion_tokens
    if wanted is not None:
        return wanted
    defaults = services().settings.generation
    return defaults.max_tokens_avision if backend.info.vision else defaults.max_tokens_avibe


def check_stream_options(asked: SamplingRequest) -> None:
    """Raise ValidationError for options of a stream that is not asked for."""
    if asked.stream_options is not None and not asked.stream:
        raise ValidationError("stream_options needs stream to be true.", "stream_options")


def choices(
    backend: Backend, asked: SamplingRequest, logprobs: int | None, new_mask: NewMask = lambda: None
) -> list[SamplingParams]:
    """Return how each answer to one prompt is chosen; with one seed for all of them they would all be the same.

    logprobs: alternatives beside each token, None for no log probabilities.
    """
    first = _sampling(backend, asked, logprobs)
    seeds = [None if first.seed is None else first.seed + number for number in range(asked.n or 1)]
    return [replace(first, seed=seed, token_mask=new_mask()) for seed in seeds]


def _sampling(backend: Backend, asked: SamplingRequest, logprobs: int | None) -> SamplingParams:
    own = backend.info.generation_defaults
    default = services().settings.generation.temperature
    return SamplingParams(
        max_tokens=length_of(backend, asked),
        temperature=default if asked.temperature is None else float(asked.temperature),
        top_p=float(own.get("top_p", 1.0)) if asked.top_p is None else float(asked.top_p),
        top_k=int(own.get("top_k", 0)) if asked.top_k is None else max(0, asked.top_k),
        min_p=float(own.get("min_p", 0.0)) if asked.min_p is None else float(asked.min_p),
        presence_penalty=float(asked.presence_penalty or 0.0),
        frequency_penalty=float(asked.frequency_penalty or 0.0),
        repetition_penalty=(
            float(own.get("repetition_penalty", 1.0))
            if asked.repetition_penalty is None
            else float(asked.repetition_penalty)
        ),
        logit_bias={int(token): float(bias) for token, bias in (asked.logit_bias or {}).items()},
        seed=asked.seed,
        stop=_stops(asked),
        logprobs=logprobs,
        ignore_eos=bool(asked.ignore_eos),
    )


def _stops(asked: SamplingRequest) -> tuple[str, ...]:
    if asked.stop is None:
        return ()
    return (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
