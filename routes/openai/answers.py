"""The parts that bodies and stream events of /v1 have in common."""

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
LOWEST_LOGPROB = -9999.0  # OpenAI's value for a token of negligible probability


def error_event(error: ServiceError) -> bytes:
    """Return the last event of a stream that fails; no [DONE] follows it."""
    return sse.event(errors.openai_body(error))


def finish_reason(completion: Completion) -> FinishReason:
    """Return why an answer ended. An aborted answer raises an error and has no completion."""
    return "length" if completion.finish_reason == "length" else "stop"


def usage(completions: Sequence[Completion], prompts: int = 1) -> Usage:
    """Return the counts of tokens; several answers to one prompt count it once. prompts: the number of prompts."""
    each = len(completions) // prompts
    prompt_tokens = sum(completion.prompt_tokens for completion in completions[::each])
    completion_tokens = sum(completion.output_tokens for completion in completions)
    cached = sum(completion.cached_tokens for completion in completions[::each])
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return log probabilities as chats show them, without tokens that have no text, such as the end token."""
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
    """Return log probabilities as plain completions show them. offset: of the first token, in characters."""
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
    """Return a log probability as JSON can represent it, which has no infinity."""
    return max(logprob, LOWEST_LOGPROB)


def _bytes(token: str) -> list[int] | None:
    """Return the bytes of a token, None for a part of a character, whose text does not tell them."""
    return None if "\ufffd" in token else list(token.encode())
