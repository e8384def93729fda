"""Conversations whose requests have the lengths of a public trace. Seeded: the same seed gives the same conversations.

Lengths: the conversation part of the Azure LLM inference trace of 2023 (19,366 requests of 2023-11-11; CC BY 4.0),
published with Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024, as
https://github.com/Azure/AzurePublicDataset/blob/master/AzureLLMInferenceDataset2023.md. Below are its quantiles in
steps of 2.5%; the last is that of 99%, since a few outliers lie far beyond. Both lengths are drawn independently: their
rank correlation in the trace is 0.07. Its arrivals are almost a Poisson process (the gaps' coefficient of variation is
1.09), which is used here.

The trace has no conversations. Published means of their number of turns are 2.0 (LMSYS-Chat-1M, ICLR 2024) and 4.6
(ShareChat, 2025: 660,000 turns of 142,808 conversations); TURNS lies between. THINKING is an assumption.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

from engine.schedule.block_pool import BLOCK

PROMPTS = (
    2, 120, 181, 200, 207, 235, 372, 379, 387, 393, 396, 400, 403, 407, 414, 428, 703, 922, 984, 1005, 1020, 1033, 1045,
    1058, 1071, 1083, 1097, 1112, 1130, 1153, 1189, 1276, 1315, 1434, 1876, 2309, 2734, 4075, 4083, 4092, 4142,
)  # fmt: skip
ANSWERS = (
    7, 28, 41, 48, 54, 60, 67, 72, 77, 82, 85, 88, 91, 93, 96, 99, 103, 108, 113, 120, 129, 138, 151, 162, 177, 195,
    217, 373, 384, 391, 395, 396, 400, 406, 411, 416, 424, 430, 451, 522, 601,
)  # fmt: skip
TURNS = 3.0  # of a conversation, on average; geometrically distributed
THINKING = 30.0  # seconds from an answer to the next turn, on average; exponentially distributed


@dataclass(slots=True)
class Turn:
    """One request. prompt, answer: tokens; shared: tokens of the prompt that the turn before has computed already."""

    conversation: int
    prompt: int
    answer: int
    shared: int = 0
    following: Turn | None = None


@dataclass(frozen=True, slots=True)
class Lengths:
    """Quantiles of prompts and answers at equal distances; longest: tokens of both together that a copy takes."""

    prompts: tuple[int, ...] = PROMPTS
    answers: tuple[int, ...] = ANSWERS
    longest: int = 4096
    scale: float = 1.0

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Return the tokens of a prompt and of its answer."""
        answer = max(1, round(self.scale * quantile(self.answers, rng.random())))
        answer = min(answer, self.longest // 2)
        prompt = max(1, round(self.scale * quantile(self.prompts, rng.random())))
        return min(prompt, self.longest - answer), answer


def quantile(table: tuple[int, ...], share: float) -> float:
    """Return the value below which this share of a distribution lies, linear between the table's quantiles."""
    at = share * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    return table[low] + (at - low) * (table[low + 1] - table[low])


class Conversations:
    """Makes conversations; each is the chain of its turns."""

    def __init__(self, seed: int, lengths: Lengths | None = None, turns: float = TURNS) -> None:
        self.rng = random.Random(seed)
        self._lengths, self._turns, self._number = lengths or Lengths(), turns, 0

    def __iter__(self) -> Iterator[Turn]:
        while True:
            yield self.next()

    def next(self) -> Turn:
        """Return the first turn of a new conversation.

        The prompts of its turns are drawn and then sorted: each holds what was said before, and over all
        conversations they are distributed as in the trace.
        """
        self._number += 1
        drawn: list[tuple[int, int]] = []
        while True:
            insort(drawn, self._lengths.draw(self.rng))
            if self.rng.random() * self._turns < 1:
                return self._chain(drawn)

    def _chain(self, drawn: list[tuple[int, int]]) -> Turn:
        turns = [Turn(self._number, prompt, answer) for prompt, answer in drawn]
        for before, turn in zip(turns, turns[1:], strict=False):
            before.following = turn
            turn.shared = min(before.prompt + before.answer, turn.prompt - 1) // BLOCK * BLOCK
        return turns[0]
