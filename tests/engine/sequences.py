"""Sequences without a tokenizer or a model: token n of their vocabulary is the n-th small letter."""

from __future__ import annotations

import time
from itertools import count

from engine.backend import Generation
from engine.schedule.sequence import Sequence
from engine.text.detokenizer import Detokenizer, TokenTable
from engine.types import GenerationRequest, Priority, SamplingParams, TokensPrompt
from tests.timing import PATIENCE

LETTERS = TokenTable([bytes([letter]) for letter in range(ord("a"), ord("z") + 1)], cleans=False)
_numbers = count()


def sequence(
    client="",
    tokens=4,
    max_tokens=8,
    *,
    batch=False,
    high=False,
    arrival=0.0,
    wait=30.0,
    timeout=300.0,
    on_abort=lambda: None,
    ends=(),
    prompt=None,
    **params,
):
    """Return a sequence that waits, its prompt `tokens` letters long. ends: the end tokens; prompt: as it was sent."""
    token_ids = [number % 26 for number in range(tokens)]
    sampling = SamplingParams(max_tokens, **params)
    priority = Priority.BATCH if batch else Priority.HIGH if high else Priority.INTERACTIVE
    name = f"{client}-{next(_numbers)}"
    request = GenerationRequest(
        name, prompt or TokensPrompt(tuple(token_ids)), sampling, client, priority, wait, timeout
    )
    generation = Generation(name, tokens, time.monotonic() + PATIENCE, on_abort)
    detokenizer = Detokenizer(LETTERS, sampling.stop)
    ends = frozenset(ends)
    return Sequence(request, token_ids, generation, detokenizer, arrival, list(token_ids), end_token_ids=ends)


def outcome(submitted):
    """Return the error that a sequence ended with, its completion, or None while it goes on."""
    if not submitted.generation.done:
        return None
    try:
        return submitted.generation.result()
    except Exception as error:
        return error
