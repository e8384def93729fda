"""The longest of ever shorter prompts that the model's context takes."""

from __future__ import annotations

from collections.abc import Callable

from engine.backend import Backend
from engine.errors import ContextTooLong
from engine.text.estimate import prompt_tokens
from engine.types import ChatPrompt
from routes.generation_run import tokenized

# Characters for each token of the context; longer prompts are not worth counting.
PER_TOKEN = 16
NEAR = 8  # prompts between which the next look is where it is likely to be


def first_fitting(backend: Backend, prompts: Callable[[int], ChatPrompt], count: int, room: int) -> int:
    """Return the number of the first prompt that leaves `room` tokens of the context, that of the last if none does.

    prompts: returns one by its number, below `count`; each is shorter than the one before. Works in the caller's
    thread, up to a second for each of hundreds of messages that is counted. Raises as `Backend.tokenize` does, except
    for what is too long. The tokenizer of a server elsewhere is its own, so for such a model the tokens are estimated.
    """
    most = backend.info.max_model_len - room

    def length(number: int) -> int | None:
        """Return the tokens of a prompt, None for one that is too long to be counted."""
        try:
            return _length(backend, prompts(number))
        except ContextTooLong:
            return None

    if count == 1 or ((tokens := length(0)) is not None and tokens <= most):
        return 0
    return _first(length, tokens, count - 1, most)


def _first(length: Callable[[int], int | None], tokens: int | None, last: int, most: int) -> int:
    """Return the first number of a prompt with at most so many tokens, `last` if none before it has.

    Looks where it were if all messages were alike, which is right in a few looks for most conversations, and in the
    middle every other time, so that no conversation needs many. tokens: those of prompt 0, which are too many.
    """
    beyond, fitting, fitting_tokens = 0, last, 0
    halve = False
    while fitting - beyond > 1:
        middle = (beyond + fitting) // 2
        if not halve and tokens is not None:
            share = (tokens - most) / max(1, tokens - fitting_tokens)
            middle = min(max(beyond + round(share * (fitting - beyond)), beyond + 1), fitting - 1)
        found = length(middle)
        if found is not None and found <= most:
            fitting, fitting_tokens = middle, found
        else:
            beyond, tokens = middle, found
        halve = not halve and fitting - beyond > NEAR
    return fitting


def _length(backend: Backend, prompt: ChatPrompt) -> int:
    return prompt_tokens(prompt) if backend.info.elsewhere else len(tokenized(backend, prompt))
