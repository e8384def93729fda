"""The sampling fields of a request as every protocol's requests have them."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import ValidationError
from routes.chat.sampling import Sampling
from routes.openai.requests import ChatRequest, SamplingRequest
from routes.openai.responses.requests import ResponseRequest


def sampling(body: SamplingRequest) -> Sampling:
    """Return the sampling fields. Raises ValidationError if two fields contradict each other."""
    max_tokens, min_tokens = _max_tokens(body), body.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise ValidationError("min_tokens must be at most max_tokens.", "min_tokens")
    return replace(
        common_sampling(body, max_tokens),
        min_tokens=min_tokens,
        logit_bias={int(token): float(bias) for token, bias in (body.logit_bias or {}).items()},
        ignore_eos=bool(body.ignore_eos),
        return_token_ids=bool(body.return_token_ids),
        return_tokens_as_token_ids=bool(body.return_tokens_as_token_ids),
    )


def common_sampling(body: SamplingRequest | ResponseRequest, max_tokens: int | None) -> Sampling:
    """Return the sampling fields that all of OpenAI's protocols have by one name."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    )


def _max_tokens(body: SamplingRequest) -> int | None:
    if not isinstance(body, ChatRequest) or body.max_completion_tokens is None:
        return body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise ValidationError("max_tokens and max_completion_tokens contradict each other.", "max_tokens")
    return body.max_completion_tokens
