"""Whole answers in OpenAI's shapes, and the parts that events share with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge import errors
from engine.errors import ServiceError
from engine.types import Completion, TokenLogprob
from routes import sse

DONE = b"data: [DONE]\n\n"


def error_event(error: ServiceError) -> bytes:
    """Return the event that ends a stream which has begun and failed; no [DONE] follows it."""
    return sse.event(errors.openai_body(error))


def usage(completions: Sequence[Completion], prompts: int = 1) -> dict[str, Any]:
    """Return the tokens counted; answers to one prompt count it once. prompts: how many there were."""
    each = len(completions) // prompts
    asked = sum(completion.prompt_tokens for completion in completions[::each])
    made = sum(completion.output_tokens for completion in completions)
    return {
        "prompt_tokens": asked,
        "completion_tokens": made,
        "total_tokens": asked + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in completions[::each])},
    }


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return log probabilities in the shape of chats; tokens without a text, such as the last one, are left out."""
    return {"content": [_chat_token(token) for token in tokens if token.token], "refusal": None}


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    top = [_one(text, logprob) for _, text, logprob in token.top]
    return _one(token.token, token.logprob) | {"top_logprobs": top}


def _one(text: str, logprob: float) -> dict[str, Any]:
    # A part of a character has no text of its own, so its bytes are not known from the text.
    data = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": data}


def text_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return log probabilities in the shape of plain completions. offset: where the first token begins in the text."""
    shown = [token for token in tokens if token.token]
    offsets = []
    for token in shown:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in shown],
        "token_logprobs": [max(token.logprob, -9999.0) for token in shown],
        "top_logprobs": [{text: max(logprob, -9999.0) for _, text, logprob in token.top} for token in shown],
        "text_offset": offsets,
    }
