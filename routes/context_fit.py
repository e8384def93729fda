"""The longest of ever shorter prompts that the model's context takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from engine.backend import Backend
from engine.errors import ContextTooLong
from engine.text.estimate import prompt_tokens
from engine.types import ChatPrompt
from routes.generation_run import tokenized

# Characters for each token of the context; longer prompts are not worth counting.
PER_TOKEN = 16


def first_fitting(backend: Backend, prompts: Callable[[int], ChatPrompt], count: int, room: int) -> int:
    """Return the number of the first prompt that leaves `room` tokens of the context, that of the last if none does.

    prompts: returns one by its number, below `count`; each is shorter than the one before. Works in the caller's
    thread, some milliseconds for each that is counted. Raises as `Backend.tokenize` does, except for what is too long.
    The tokenizer of a server elsewhere is its own, so for such a model the tokens are estimated.
    """
    most = backend.info.max_model_len - room

    def fits(number: int) -> bool:
        try:
            return _length(backend, prompts(number)) <= most
        except ContextTooLong:
            return False

    if count == 1 or fits(0):
        return 0
    return 1 + bisect_left(range(1, count - 1), True, key=fits)


def _length(backend: Backend, prompt: ChatPrompt) -> int:
    return prompt_tokens(prompt) if backend.info.elsewhere else len(tokenized(backend, prompt))
