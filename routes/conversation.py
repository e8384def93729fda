"""What a question goes on from: the turns of its conversation, the latest that the model's context takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.backend import Backend
from engine.types import ChatPrompt, EncodedImage
from routes.context_fit import PER_TOKEN, first_fitting
from routes.request_models import Turn


def conversation(
    prompt: str, images: Sequence[EncodedImage] = (), history: Sequence[Turn] = (), system: str = ""
) -> ChatPrompt:
    """Return the conversation that ends in a question. The images belong to its first question.

    system: what it begins with, "" for nothing.
    """
    messages: list[dict[str, Any]] = []
    for turn in history:
        messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.text}]
    messages.append({"role": "user", "content": prompt})
    if images:
        shown = [{"type": "image"} for _ in images]
        messages[0]["content"] = [*shown, {"type": "text", "text": messages[0]["content"]}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return ChatPrompt(tuple(messages), images=tuple(images))


def fitting(
    backend: Backend, begun: Callable[[Sequence[Turn]], ChatPrompt], history: Sequence[Turn], max_tokens: int
) -> Sequence[Turn]:
    """Return the latest turns that leave room for the question and an answer of `max_tokens`.

    begun: returns the conversation with these turns. Raises as `Backend.tokenize` does, except for what is too long: a
    question that does not fit alone is left to `submit`.
    """
    recent = _recent(history, PER_TOKEN * backend.info.max_model_len)
    return recent[first_fitting(backend, lambda gone: begun(recent[gone:]), len(recent) + 1, max_tokens) :]


def _recent(history: Sequence[Turn], characters: int) -> Sequence[Turn]:
    """Return the latest turns that have at most so many characters together."""
    for number, turn in enumerate(reversed(history)):
        characters -= len(turn.prompt) + len(turn.text)
        if characters < 0:
            return history[len(history) - number :]
    return history
