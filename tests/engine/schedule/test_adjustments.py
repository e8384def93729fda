"""The tokens whose logits a sequence changes: counted as they come, each once."""

from __future__ import annotations

import pytest

from tests.engine.sequences import sequence


def adjusted(output, **params):
    """Return the adjustments of a sequence with the prompt 0, 1, 2, 3 after this output."""
    made = sequence(tokens=4, **params)
    for token in output:
        made.append(token)
    return made.adjustments


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


def test_a_bias_alone_counts_nothing():
    """However long the answer gets."""
    adjustments = adjusted([9] * 100, logit_bias={7: 1.5, 2: -100.0})
    assert counted(adjustments) == {}
    assert (adjustments.bias_ids.tolist(), adjustments.biases.tolist()) == ([7, 2], [1.5, -100.0])
