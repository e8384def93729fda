"""Answers without a model: a random walk through the tokens that a grammar allows, as a model would take it."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from engine.text.grammar import GrammarMask
from engine.types import Vocabulary
from tests.masks import bitmask_of

CLOSING = frozenset(b'"}], :{[0123456789')
PATIENT = 60  # tokens after which a walk prefers those that end something


class Walker:
    """Walks over one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = vocabulary.tokens
        self._ends = np.array(sorted(vocabulary.eos_token_ids))
        self._closing = np.array([bool(token) and CLOSING.issuperset(token) for token in vocabulary.tokens])

    def walk(self, mask: GrammarMask, seed: int, most: int = 400) -> tuple[bytes, str]:
        """Return the bytes of an answer of at most so many tokens, and how it ended: "stop" or "length"."""
        rng, answer = random.Random(seed), b""
        for number in range(most):
            allowed = self._allowed(mask)
            ends = np.intersect1d(allowed, self._ends)
            if len(ends) and (len(ends) == len(allowed) or rng.random() < 0.5):
                mask.accept(int(ends[0]))
                return answer, "stop"
            closing = allowed[self._closing[allowed]]
            eager = seed % 3 or number > PATIENT
            if len(closing) and eager and rng.random() < (0.5 if number < 2 * PATIENT else 0.9):
                allowed = closing
            token = int(allowed[rng.randrange(len(allowed))])
            mask.accept(token)
            answer += self._tokens[token]
        return answer, "length"

    def _allowed(self, mask: GrammarMask) -> NDArray[np.int64]:
        bits = np.unpackbits(np.asarray(bitmask_of(mask)).view(np.uint8), bitorder="little")
        return np.flatnonzero(bits[: len(self._tokens)])
