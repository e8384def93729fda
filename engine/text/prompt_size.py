"""The least that a prompt can take of a model's context, counted before any of it is rendered or tokenized.

Rendering and tokenizing cost time and memory for every character, so what cannot fit is refused by counting. Everything
that a chat template is given counts: contents, names, ids, arguments, definitions of tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ContextTooLong
from engine.types import ChatPrompt, Prompt, TextPrompt

# No token of the served vocabularies is longer, in characters.
LONGEST_TOKEN = 128
# Characters that a value takes at least in a rendered text: itself and what separates it from the next.
VALUE = 2
BITS_OF_A_DIGIT = 4  # at most, of a decimal one


def check_prompt_size(prompt: Prompt, max_model_len: int) -> None:
    """Raise ContextTooLong for a prompt that cannot fit into `max_model_len` tokens, whatever its text."""
    most = LONGEST_TOKEN * max_model_len
    if isinstance(prompt, ChatPrompt):
        longer = is_longer([prompt.messages, prompt.tools], most)
    else:
        longer = isinstance(prompt, TextPrompt) and len(prompt.text) > most
    if longer:
        raise too_long(prompt, max_model_len)


def check_unshown(values: Any, field: str, max_model_len: int) -> None:
    """Raise ContextTooLong for what a prompt leaves out, and what would not fit into it: it is kept all the same."""
    if is_longer([values], LONGEST_TOKEN * max_model_len):
        raise _field_too_long(field, max_model_len)


def check_repeated(characters: int, field: str, max_model_len: int) -> None:
    """Raise ContextTooLong for so many characters of a prompt, before a text that stands in it often is repeated."""
    if characters > LONGEST_TOKEN * max_model_len:
        raise _field_too_long(field, max_model_len)


def _field_too_long(field: str, max_model_len: int) -> ContextTooLong:
    return ContextTooLong(f"The {field} are too long for this model's context.", field, max_model_len)


def too_long(prompt: Prompt, max_model_len: int) -> ContextTooLong:
    """Return the error for a prompt that alone does not fit, its exact length unknown."""
    field, are = ("messages", "are") if isinstance(prompt, ChatPrompt) else ("prompt", "is")
    message = f"The {field} {are} too long for this model's context of {max_model_len} tokens."
    return ContextTooLong(message, field, max_model_len)


def is_longer(values: list[Any], most: int) -> bool:
    """Return whether JSON-like values have more than `most` characters, at least; counts no further than that."""
    counted, values = 0, [*values]
    while values and counted <= most:
        value = values.pop()
        if isinstance(value, str):
            counted += len(value)
            continue
        counted += max(VALUE, value.bit_length() // BITS_OF_A_DIGIT) if isinstance(value, int) else VALUE
        if isinstance(value, Mapping):
            counted += sum(len(key) for key in value)
            values.extend(value.values())
        elif isinstance(value, list | tuple):
            values.extend(value)
    return counted > most
