"""What bias and penalties of one sequence change in its logits, kept as arrays that every step can use as they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from engine.types import SamplingParams


class Adjustments:
    """The tokens whose logits change, each once, as int32 and float32.

    bias_ids, biases: added first. token_ids, counts: the tokens that penalties apply to, and how often each is in the
    answer so far; with a repetition penalty the tokens of the prompt are among them, with 0.
    """

    def __init__(self, sampling: SamplingParams, prompt: Iterable[int]) -> None:
        self.bias_ids = array("i", sampling.logit_bias.keys())
        self.biases = array("f", sampling.logit_bias.values())
        repetition = sampling.repetition_penalty != 1.0
        self._counting = repetition or bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(prompt if repetition else ()))}
        self.token_ids = array("i", self._places)
        self.counts = array("f", bytes(4 * len(self._places)))

    def append(self, token_id: int) -> None:
        """Count a token of the answer."""
        if not self._counting:
            return
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self.token_ids):
            self.token_ids.append(token_id)
            self.counts.append(0.0)
        self.counts[place] += 1.0
