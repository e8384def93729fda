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
def prompt_in(field: str, tools: str | None = None) -> Iterator[None]:
    """Say of a prompt that does not fit what OpenAI's clients look for, and name the field that it came in.

    tools: the field of the functions that are described in the prompt, None where there are none.
    """
    try:
        yield
    except ContextTooLong as error:
        raise _overflow(error, field, tools) from None


def _overflow(error: ContextTooLong, field: str, tools: str | None) -> ContextTooLong:
    length, prompt = error.max_model_len, error.prompt_tokens
    much = "more than that" if prompt is None else f"{prompt} tokens, which leaves no room for an answer"
    known = f"This model's maximum context length is {length} tokens."  # the words that clients look for
    both, either = (f"{field} and {tools}", f"{field} or {tools}") if tools else (field, field)
    message = f"{known} However, {both} came to {much}. Please reduce the length of {either}."
    return ContextTooLong(message, field, length, prompt)
