"""Whole answers in OpenAI's shapes, and the parts that events share with them."""

from __future__ import annotations

from collections.abc import Sequence

from edge import errors
from engine.errors import ServiceError
from engine.types import Completion, TokenLogprob
from routes import response_models, sse
from routes.response_models import (
    ChatLogprobs,
    ChosenTokenLogprob,
    FinishReason,
    PromptTokensDetails,
    TextLogprobs,
    Usage,
)

DONE = b"data: [DONE]\n\n"
LOWEST_LOGPROB = -9999.0  # as OpenAI shows a token of no probability


def error_event(error: ServiceError) -> bytes:
    """Return the event that ends a stream which has begun and failed; no [DONE] follows it."""
    return sse.event(errors.openai_body(error))


def finish_reason(completion: Completion) -> FinishReason:
    """Return why an answer ended. An answer that was aborted is an error and no completion."""
    return "length" if completion.finish_reason == "length" else "stop"


def usage(completions: Sequence[Completion], prompts: int = 1) -> Usage:
    """Return the tokens counted; answers to one prompt count it once. prompts: how many there were."""
    each = len(completions) // prompts
    asked = sum(completion.prompt_tokens for completion in completions[::each])
    made = sum(completion.output_tokens for completion in completions)
    cached = sum(completion.cached_tokens for completion in completions[::each])
    return Usage(
        prompt_tokens=asked,
        completion_tokens=made,
        total_tokens=asked + made,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return log probabilities in the shape of chats; tokens without a text, such as the last one, are left out."""
    return ChatLogprobs(content=[_chosen(token) for token in tokens if token.token], refusal=None)


def _chosen(token: TokenLogprob) -> ChosenTokenLogprob:
    return ChosenTokenLogprob(
        token=token.token,
        logprob=_finite(token.logprob),
        bytes=_bytes(token.token),
        top_logprobs=[
            response_models.TokenLogprob(token=text, logprob=_finite(logprob), bytes=_bytes(text))
            for _, text, logprob in token.top
        ],
    )


def text_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> TextLogprobs:
    """Return log probabilities in the shape of plain completions. offset: where the first token begins in the text."""
    shown = [token for token in tokens if token.token]
    offsets = []
    for token in shown:
        offsets.append(offset)
        offset += len(token.token)
    return TextLogprobs(
        tokens=[token.token for token in shown],
        token_logprobs=[_finite(token.logprob) for token in shown],
        top_logprobs=[{text: _finite(logprob) for _, text, logprob in token.top} for token in shown],
        text_offset=offsets,
    )


def _finite(logprob: float) -> float:
    """Return a log probability that JSON can carry: minus infinity has no number there."""
    return max(logprob, LOWEST_LOGPROB)


def _bytes(token: str) -> list[int] | None:
    """Return the bytes of a token; those of a part of a character are not known from its text."""
    return None if "\ufffd" in token else list(token.encode())
