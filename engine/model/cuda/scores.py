"""The log probabilities of prompts' tokens in a flat step, on their way to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.sampler import to_device
from engine.model.scoring import choices_of, log_probabilities, part_rows, parts
from engine.schedule.prompt_scores import ScoredSpan

Part = tuple[Tensor, Tensor, Tensor]
# Writes the logits [n, vocabulary] of hidden states [n, hidden].
LogitsOf = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Scores:
    """What one step scores: its parts of prompts, each with what `log_probabilities` returned of its rows."""

    spans: list[tuple[ScoredSpan, list[Part]]]

    @classmethod
    def launch(cls, spans: list[ScoredSpan], states: Tensor, logits_of: LogitsOf, vocabulary: int, most: int) -> Scores:
        """Launch the logits of `states` [rows of all spans, hidden], a part at a time, and their copies to the host.

        most: see `part_rows`.
        """
        first, scored, size = 0, [], part_rows(vocabulary, most, on_card=True)
        for span in spans:
            own = states[first : first + len(span.rows)]
            first += len(span.rows)
            scored.append((span, _scores(span, own, logits_of, vocabulary, size)))
        return cls(scored)

    def collect(self) -> None:
        """Give the sequences their scores, once the step has been waited for."""
        for span, scores in self.spans:
            targets, done = span.targets, 0
            for part in scores:
                size = part[0].shape[0]
                span.add(choices_of(targets[done : done + size], part), done)
                done += size


def _scores(span: ScoredSpan, states: Tensor, logits_of: LogitsOf, vocabulary: int, size: int) -> list[Part]:
    targets = to_device(torch.tensor(span.targets), states.device)
    scores = []
    for part in parts(len(span.rows), size):
        logits = torch.empty(part.stop - part.start, vocabulary, dtype=torch.float32, device=states.device)
        logits_of(states[part], logits)
        chosen, best, ids = log_probabilities(logits, targets[part], span.sequence.sampling.logprobs or 0)
        scores.append((_sent(chosen), _sent(best), _sent(ids)))
    return scores


def _sent(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", non_blocking=True, copy=True)
