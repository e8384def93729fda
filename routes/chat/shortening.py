"""A conversation without its oldest messages, where its request lets them be dropped for what the context takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.backend import Backend
from engine.types import ChatPrompt
from routes.chat.conversation import WITH_CALLS
from routes.chat.task import ChatTask
from routes.context_fit import PER_TOKEN, first_fitting

Message = Mapping[str, Any]


def shortened(task: ChatTask, backend: Backend) -> ChatTask:
    """Return the task with the latest messages that leave room for its answer; instructions always stay.

    The room is a quarter of the context, or the answer's bound where that is less. What is kept begins with a question,
    so that no result stands without its call. A question that does not fit alone is left to `submit`. Raises as
    `Backend.tokenize` does.
    """
    length = backend.info.max_model_len
    starts = _starts(task.messages, PER_TOKEN * length)
    bound = task.sampling.max_tokens
    room = length // 4 if bound is None else min(bound, length // 4)

    def prompt(number: int) -> ChatPrompt:
        return _from(task, starts[number]).prompt

    return _from(task, starts[first_fitting(backend, prompt, len(starts), room)])


def _starts(messages: Sequence[Message], characters: int) -> list[int]:
    """Return where the conversation may start: before all, and before each question with at most so many from there.

    A message takes a token at least, beside its content.
    """
    starts: list[int] = []
    for index in reversed(range(len(messages))):
        characters -= _characters(messages[index]) + PER_TOKEN
        if characters < 0 and starts:
            return starts[::-1]
        if messages[index]["role"] == "user" and WITH_CALLS not in messages[index]:
            starts.append(index)
    first = next((index for index, message in enumerate(messages) if _drops(message)), len(messages))
    return [0, *(start for start in reversed(starts) if start > first)]


def _drops(message: Message) -> bool:
    return bool(message["role"] != "system")


def _characters(message: Message) -> int:
    content = message["content"]
    return len(content) if isinstance(content, str) else sum(len(part.get("text", "")) for part in content)


def _from(task: ChatTask, start: int) -> ChatTask:
    """Return the task without what was said before a message, and without the images in it."""
    before = [message for message in task.messages[:start] if _drops(message)]
    kept = tuple(message for index, message in enumerate(task.messages) if index >= start or not _drops(message))
    # Instructions may have images too, and stay.
    shown = [_drops(message) and index < start for index, message in enumerate(task.messages) for _ in _images(message)]
    images = tuple(image for image, gone in zip(task.images, shown, strict=True) if not gone)
    return replace(task, messages=kept, images=images) if before else task


def _images(message: Message) -> list[Any]:
    content = message["content"]
    return [] if isinstance(content, str) else [part for part in content if part["type"] == "image"]
