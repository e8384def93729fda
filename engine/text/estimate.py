"""How many tokens a text may have where no tokenizer of its model is at hand: an estimate that rather is too high.

The vocabularies of today's models have about 4 bytes of English and 5 of Russian text in a token, fewer of code and
numbers. What the server counts replaces the estimate as soon as it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.types import ChatPrompt, Prompt, TextPrompt

BYTES_A_TOKEN = 3
MOST_BYTES_A_TOKEN = 5  # with which an estimate is rather too low
MESSAGE_TOKENS = 8  # around each message of a chat template
PIXELS_A_TOKEN = 28 * 28  # of Qwen2.5-VL; others take fewer tokens for an image
PIECE = 64 * 1024  # characters: a text of megabytes would keep the interpreter lock while it is encoded
VALUE_BYTES = 4  # around a value in JSON: quotation marks and what separates it from the next
IMAGE_TOKENS = 1280  # the most that an image is scaled to, at such servers' defaults


def text_tokens(text: str, bytes_a_token: int = BYTES_A_TOKEN) -> int:
    """Return about how many tokens a text has."""
    return -(-_bytes_of(text) // bytes_a_token)


def prompt_tokens(prompt: Prompt, bytes_a_token: int = BYTES_A_TOKEN) -> int:
    """Return about how many tokens a prompt has, images included."""
    if isinstance(prompt, TextPrompt):
        return text_tokens(prompt.text, bytes_a_token)
    if not isinstance(prompt, ChatPrompt):
        return len(prompt.token_ids)
    size = _bytes_in([prompt.messages, prompt.tools]) if prompt.tools else _bytes_said(prompt)
    images = sum(min(IMAGE_TOKENS, -(-one.width * one.height // PIXELS_A_TOKEN)) for one in prompt.images)
    return -(-size // bytes_a_token) + MESSAGE_TOKENS * (len(prompt.messages) + 1) + images


def _bytes_said(prompt: ChatPrompt) -> int:
    """Return the bytes of the texts of messages, and of the calls in them."""
    size = 0
    for message in prompt.messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        size += sum(map(_bytes_of, texts)) + _bytes_in(message.get("tool_calls", ()))
    return size


def _bytes_in(value: Any) -> int:
    """Return about how many bytes the JSON of a value has, without writing it."""
    size, values = 0, [value]
    while values:
        one = values.pop()
        size += VALUE_BYTES
        if isinstance(one, str):
            size += _bytes_of(one)
        elif isinstance(one, Mapping):
            size += sum(VALUE_BYTES + _bytes_of(name) for name in one)
            values.extend(one.values())
        elif isinstance(one, list | tuple):
            values.extend(one)
    return size


def _bytes_of(text: str) -> int:
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces)
