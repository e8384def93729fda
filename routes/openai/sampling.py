"""From a request's sampling fields to the engine's: the caller's word first, then the checkpoint's own, then neutral."""

from __future__ import annotations

from edge import parts
from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import SamplingParams, TokenMask
from routes.openai.requests import ChatRequest, SamplingRequest


def length_of(backend: Backend, asked: SamplingRequest) -> int:
    """Return how many tokens an answer may have. Raises ValidationError where two fields contradict each other."""
    wanted = asked.max_tokens
    if isinstance(asked, ChatRequest) and asked.max_completion_tokens is not None:
        if wanted is not None and wanted != asked.max_completion_tokens:
            raise ValidationError("max_tokens and max_completion_tokens contradict each other.", "max_tokens")
        wanted = asked.max_completion_tokens
    if wanted is not None:
        return wanted
    defaults = parts.settings().generation
    return defaults.max_tokens_avision if backend.info.vision else defaults.max_tokens_avibe


def check_stream_options(asked: SamplingRequest) -> None:
    """Raise ValidationError for options of a stream that is not asked for."""
    if asked.stream_options is not None and not asked.stream:
        raise ValidationError("stream_options needs stream to be true.", "stream_options")


def sampling(
    backend: Backend, asked: SamplingRequest, logprobs: int | None, mask: TokenMask | None = None
) -> SamplingParams:
    """Return how one answer is chosen. logprobs: alternatives beside each token, None for no log probabilities."""
    own = backend.info.generation_defaults
    default = parts.settings().generation.temperature
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
        token_mask=mask,
        ignore_eos=bool(asked.ignore_eos),
    )


def _stops(asked: SamplingRequest) -> tuple[str, ...]:
    if asked.stop is None:
        return ()
    return (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
