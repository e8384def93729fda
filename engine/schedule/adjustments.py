"""What bias and penalties of one sequence change in its logits, kept as arrays that every step can use as they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

from engine.types import SamplingParams

# Of an end token that may not be drawn yet: no sampler draws a token so far below the best, and divided by the lowest
# temperature it is still in the range of integers.
HELD = -1e4

Biases = tuple["array[int]", "array[float]"]


class Adjustments:
    """The tokens whose logits change, each once, as int32 and float32.

    bias_ids, biases: added first; held: the same while no end token may be drawn. token_ids, counts: the tokens that
    penalties apply to, and how often each is in the answer so far; with a repetition penalty the tokens of the prompt
    are among them, with 0. counting: whether there are any penalties.
    """

    def __init__(self, sampling: SamplingParams, prompt: Iterable[int], end_token_ids: Iterable[int] = ()) -> None:
        self.bias_ids, self.biases = _arrays(sampling.logit_bias)
        self.held = _arrays({**sampling.logit_bias, **dict.fromkeys(end_token_ids, HELD)})
        repetition = sampling.repetition_penalty != 1.0
        self.counting = repetition or bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(prompt if repetition else ()))}
        self.token_ids = array("i", self._places)
        self.counts = array("f", bytes(4 * len(self._places)))

    def append(self, token_id: int) -> None:
        """Count a token of the answer."""
        if not self.counting:
            return
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self.token_ids):
            self.token_ids.append(token_id)
            self.counts.append(0.0)
        self.counts[place] += 1.0


def _arrays(biases: Mapping[int, float]) -> Biases:
    return array("i", biases.keys()), array("f", biases.values())
