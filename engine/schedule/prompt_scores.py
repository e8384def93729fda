"""The log probabilities of the tokens of one prompt, as far as they are computed. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.model.choice import Choice

if TYPE_CHECKING:
    from engine.schedule.plan import Plan
    from engine.schedule.sequence import Sequence


class PromptScores:
    """Used by the engine's thread. The first token has none: nothing stands before it.

    known: of the tokens from the second on, each with its likeliest alternatives. finite: whether all are numbers.
    """

    def __init__(self, num_prompt: int) -> None:
        self._wanted = num_prompt - 1
        self.known: list[Choice] = []
        self.finite = True

    @property
    def complete(self) -> bool:
        """True once every token has its log probability."""
        return len(self.known) >= self._wanted

    def positions(self, start: int, count: int) -> range:
        """Return those positions of a chunk of the prompt whose logits are those of a token of the prompt."""
        return range(start, min(start + count, self._wanted))

    def add(self, start: int, scores: Iterable[Choice]) -> None:
        """Add what the logits of the positions from `start` on say of the tokens behind them, unless it is known."""
        assert start <= len(self.known), "steps are read in their order"
        new = list(scores)[len(self.known) - start :]
        self.finite = self.finite and all(math.isfinite(score.logprob or 0.0) for score in new)
        self.known += new


@dataclass(frozen=True, slots=True)
class ScoredSpan:
    """A part of a prompt whose tokens a step scores: from position `start` on, in these rows of the step's tokens."""

    sequence: Sequence
    start: int
    rows: range

    @property
    def targets(self) -> list[int]:
        """The tokens that are scored."""
        return self.sequence.token_ids[self.start + 1 : self.start + 1 + len(self.rows)]

    def add(self, scores: Iterable[Choice], done: int = 0) -> None:
        """Give the sequence the scores of the targets behind the first `done`."""
        if self.sequence.scores is not None:
            self.sequence.scores.add(self.start + done, scores)


def scored_spans(plan: Plan) -> list[ScoredSpan]:
    """Return what a step scores, before it is computed."""
    rows, spans, row = plan.rows, list[ScoredSpan](), 0
    if all(sequence.scores is None for sequence, _ in rows):
        return spans
    for sequence, count in rows:
        if sequence.scores is not None and not sequence.scores.complete:
            positions = sequence.scores.positions(sequence.num_computed, count)
            if positions:
                spans.append(ScoredSpan(sequence, positions.start, range(row, row + len(positions))))
        row += count
    return spans
