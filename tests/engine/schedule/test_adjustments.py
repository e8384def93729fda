"""The tokens whose logits a sequence changes: counted as they come, each once."""

from __future__ import annotations

import pytest

from engine.schedule.adjustments import HELD
from tests.engine.sequences import sequence


def adjusted(output, **params):
    """Return the adjustments of a sequence with the prompt 0, 1, 2, 3 after this output."""
    made = sequence(tokens=4, **params)
    for token in output:
        made.append(token)
    return made.adjustments


def biases(one):
    """Return what is added to the logits of the next token."""
    return dict(zip(*(part.tolist() for part in one.biases), strict=True))


def counted(adjustments):
    """Return how often each token is in the answer."""
    return dict(zip(adjustments.token_ids.tolist(), adjustments.counts.tolist(), strict=True))


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_presence_and_frequency_count_the_answer_alone(penalty):
    """Never the prompt."""
    assert counted(adjusted([9, 3, 9], **{penalty: 0.5})) == {9: 2, 3: 1}
    assert counted(adjusted([], **{penalty: -0.5})) == {}


def test_a_repetition_penalty_applies_to_the_prompt_too():
    """A token of the prompt that the answer has not repeated is there with 0, in the order of its first appearance."""
    adjustments = adjusted([9, 3, 9, 30], repetition_penalty=1.2)
    assert counted(adjustments) == {0: 0, 1: 0, 2: 0, 3: 1, 9: 2, 30: 1}
    assert adjustments.token_ids.tolist() == [0, 1, 2, 3, 9, 30]


def test_an_end_token_is_held_back_until_the_least_length():
    """Steps that are launched and not read count; a bias of that token does not, before."""
    one = sequence(logit_bias={7: 1.5, 25: 100.0}, min_tokens=2, ends={25, 24})
    held = {7: 1.5, 25: HELD, 24: HELD}
    assert biases(one) == held
    one.append(3)
    assert biases(one) == held
    one.pending = 1
    assert biases(one) == {7: 1.5, 25: 100.0}
    one.append(3)
    one.pending = 0
    assert biases(one) == {7: 1.5, 25: 100.0}
    assert one.needs_its_tokens is False


def test_a_bias_alone_counts_nothing():
    """However long the answer gets."""
    adjustments = adjusted([9] * 100, logit_bias={7: 1.5, 2: -100.0})
    assert counted(adjustments) == {}
    assert (adjustments.bias_ids.tolist(), adjustments.biases.tolist()) == ([7, 2], [1.5, -100.0])
