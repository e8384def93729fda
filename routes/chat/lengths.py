"""How long an answer may be, and what is said of a prompt that does not fit: one rule for every protocol of /v1.

max_tokens is a bound there and not a wish: absent, or larger than what is possible, the answer may take what the prompt
leaves of the context, up to MAX_TOKENS_LIMIT. `X-Max-Tokens` tells the bound in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ContextTooLong
from routes.services import services


def bound_of(requested: int | None) -> int:
    """Return the most tokens that an answer may have, before the prompt is known."""
    limit = services().settings.generation.max_tokens_limit
    return limit if requested is None else min(requested, limit)


@contextmanager
def prompt_in(field: str) -> Iterator[None]:
    """Say of a prompt that does not fit what OpenAI's clients look for, and name the field that it came in."""
    try:
        yield
    except ContextTooLong as error:
        raise _overflow(error, field) from None


def _overflow(error: ContextTooLong, field: str) -> ContextTooLong:
    length, prompt = error.max_model_len, error.prompt_tokens
    much = "more than that" if prompt is None else f"{prompt} tokens, which leaves no room for an answer"
    known = f"This model's maximum context length is {length} tokens."  # the words that clients look for
    message = f"{known} However, {field} came to {much}. Please reduce the length of {field}."
    return ContextTooLong(message, field, length, prompt)
