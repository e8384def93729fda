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
        bytes=list(_data(token)),
        top_logprobs=[
            response_models.TokenLogprob(token=text, logprob=_finite(logprob), bytes=list(data))
            for text, logprob, data in _alternatives(token)
        ],
    )


def text_logprobs(tokens: Sequence[TokenLogprob], before: int = 0) -> TextLogprobs:
    """Return log probabilities as plain completions show them; the sampled token is always among the likeliest.

    before: how many characters stand before the answer in the text that is shown.
    """
    shown = [token for token in tokens if token.token]
    return TextLogprobs(
        tokens=[_name(token.token, _data(token)) for token in shown],
        token_logprobs=[_finite(token.logprob) for token in shown],
        top_logprobs=[_top(token) for token in shown],
        text_offset=[before + token.offset for token in shown],
    )


def _top(token: TokenLogprob) -> dict[str, float]:
    others = zip(token.top, _alternatives(token), strict=True)
    top = {_name(text, data): _finite(value) for (one, _, _), (text, value, data) in others if one != token.token_id}
    own = {_name(token.token, _data(token)): _finite(token.logprob)}
    ranked = sorted((top | own).items(), key=lambda item: item[1], reverse=True)
    return dict(ranked)


def _name(text: str, data: bytes) -> str:
    """Return a token's text, for a part of a character its bytes as OpenAI spells them: all parts have one text."""
    return text if text.encode() == data else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _data(token: TokenLogprob) -> bytes:
    return token.token.encode() if token.data is None else token.data


def _alternatives(token: TokenLogprob) -> list[tuple[str, float, bytes]]:
    """Return the likeliest tokens, each with its text, log probability and bytes."""
    data = token.top_data or tuple(text.encode() for _, text, _ in token.top)
    return [(text, logprob, own) for (_, text, logprob), own in zip(token.top, data, strict=True)]


def _finite(logprob: float) -> float:
    """Return a log probability as JSON can represent it, which has no infinity."""
    return max(logprob, LOWEST_LOGPROB)
