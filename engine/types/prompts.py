"""The prompts of requests. No torch here."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it was sent, its header already checked; it is decoded once the request is admitted.

    param: the field that it came in, for an error about it; instead: the text that stands for it where it cannot be
    decoded, None where that is an error.
    """

    data: bytes
    width: int
    height: int
    param: str = field(default="image", compare=False)
    instead: str | None = field(default=None, compare=False)


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

    def without_images(self, left_out: Container[int]) -> ChatPrompt:
        """Return the conversation with texts in place of some of its images. left_out: their indexes."""
        numbers = count()
        messages = tuple(
            message | {"content": [self._shown(part, numbers, left_out) for part in message["content"]]}
            if isinstance(message.get("content"), list | tuple)
            else message
            for message in map(dict, self.messages)
        )
        kept = tuple(image for number, image in enumerate(self.images) if number not in left_out)
        return replace(self, messages=messages, images=kept)

    def _shown(self, part: Any, numbers: Iterator[int], left_out: Container[int]) -> Any:
        if not isinstance(part, Mapping) or part.get("type") != "image" or (number := next(numbers)) not in left_out:
            return part
        return {"type": "text", "text": self.images[number].instead or ""}


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text to be continued, without a chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokensPrompt
