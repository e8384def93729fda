"""Drafts are the tokens that followed the same tokens before."""

from __future__ import annotations

import pytest

from engine.schedule.drafter import Drafter


@pytest.mark.parametrize(
    ("tokens", "most", "drafts"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]),  # the latest
        ([1, 2, 3, 4, 5, 6], 4, []),  # nothing occurred before
        ([1, 2], 4, []),
        ([7, 7, 7, 7], 3, [7, 7, 7]),  # a period of one
        ([1, 2, 3, 1, 2, 3], 5, [1, 2, 3, 1, 2]),  # a period of three is continued
        ([0x010000, 0x020000, 0x030000, 9, 1, 2, 3], 2, []),  # their bytes are those of the last, shifted
    ],
)
def test_drafts_follow_the_latest_equal_tokens(tokens, most, drafts):
    """At most so many; a text that repeats itself goes on beyond its end."""
    assert Drafter().propose(tokens, most) == drafts


def test_what_a_sequence_gets_is_found_later():
    """Tokens that come after the first search are searched too."""
    drafter, tokens = Drafter(), [1, 2, 3]
    assert drafter.propose(tokens, 2) == []
    tokens += [4, 5, 1, 2, 3]
    assert drafter.propose(tokens, 2) == [4, 5]


def test_the_chance_follows_what_was_right():
    """It rises with drafts that were right, and falls with others; what follows a wrong draft says nothing."""
    good, bad, late = Drafter(), Drafter(), Drafter()
    assert good.chance == 0.5
    for _ in range(8):
        good.learn(4, 4, 10)
        bad.learn(4, 0, 10)
    late.learn(8, 0, 10)
    once = Drafter()
    once.learn(1, 0, 10)
    assert late.chance == once.chance < 0.5
    assert good.chance > 0.95
    assert bad.chance < 0.25
    for _ in range(8):
        bad.learn(4, 4, 20)
    assert bad.chance > 0.9
    assert bad.tried_at == 20
