"""The prompts of requests. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it was sent, its header already checked; it is decoded once the request is admitted.

    param: the field that it came in, for an error about it.
    """

    data: bytes
    width: int
    height: int
    param: str = field(default="image", compare=False)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the checkpoint's chat template.

    messages: `{"role", "content", ...}`, content a string or a list of `{"type": "text", "text"}` and
    `{"type": "image"}` parts; images: one for each image part, in order; tools: as the template takes them;
    thinking: whether the template may open a reasoning block; continues: the last message is the assistant's and is
    continued, instead of being answered; opens_answer: whether the template opens the answer, which it does in any case
    where one is continued.
    """

    messages: tuple[Mapping[str, Any], ...]
    images: tuple[EncodedImage, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False
    continues: bool = False
    opens_answer: bool = True


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text to be continued, without a chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokensPrompt
