"""The engine's sampling parameters of a request: its fields, else the checkpoint's values, else neutral ones."""

from __future__ import annotations

from dataclasses import replace

from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import SamplingParams
from routes.openai.requests import ChatRequest, SamplingRequest
from routes.openai.structured_output import NewMask
from routes.sampling import default_sampling


def length_of(backend: Backend, body: SamplingRequest) -> int:
    """Return the maximum number of tokens of an answer. Raises ValidationError if two fields contradict each other."""
    requested = body.max_tokens
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        if requested is not None and requested != body.max_completion_tokens:
            raise ValidationError("max_tokens and max_completion_tokens contradict each other.", "max_tokens")
        requested = body.max_completion_tokens
    return default_sampling(backend).max_tokens if requested is None else requested


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
    default = default_sampling(backend)
    return replace(
        default,
        max_tokens=length_of(backend, body),
        temperature=_given(body.temperature, default.temperature),
        top_p=_given(body.top_p, default.top_p),
        top_k=default.top_k if body.top_k is None else max(0, body.top_k),
        min_p=_given(body.min_p, default.min_p),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        repetition_penalty=_given(body.repetition_penalty, default.repetition_penalty),
        logit_bias={int(token): float(bias) for token, bias in (body.logit_bias or {}).items()},
        seed=body.seed,
        stop=_stops(body),
        logprobs=logprobs,
        ignore_eos=bool(body.ignore_eos),
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _stops(body: SamplingRequest) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
