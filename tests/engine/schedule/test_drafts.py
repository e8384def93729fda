"""Sequences get drafts only where those can be used and pay."""

from __future__ import annotations

import pytest

from engine.schedule.drafter import Drafter
from engine.schedule.drafts import REFRESH, REST, TRIAL, Drafts
from engine.schedule.step_times import FRESH, StepTimes
from tests.engine.sequences import sequence


class Mask:
    """A grammar that is never asked."""


def repeating(max_tokens=64, output=6, chance=None, **params):
    """Return a decoding sequence whose tokens repeat."""
    made = sequence(tokens=3, max_tokens=max_tokens, **params)
    for place in range(output):
        made.append(place % 3)
    if chance is not None:
        Drafts(8, 64, 8).add([made])
        for _ in range(40):
            made.drafts = made.drafts or [0] * 4
            made.verified(len(made.drafts) if chance else 0)
    return made


def drafted(*sequences, most=8, rows=64, overhead=8):
    """Return how many drafts each sequence of a step gets."""
    Drafts(most, rows, overhead).add(sequences)
    return [len(each.drafts) for each in sequences]


def test_a_repeating_text_is_drafted():
    """Few while nothing is known of a sequence, all that are allowed once its drafts are right."""
    assert 0 < drafted(repeating())[0] < 8
    assert drafted(repeating(chance=1)) == [8]
    assert drafted(repeating(chance=1), most=3) == [3]
    assert drafted(repeating(chance=1), most=0) == [0]


@pytest.mark.parametrize(
    "params",
    [
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.2},
        {"token_mask": Mask()},
        {"min_tokens": 7},
        {"max_tokens": 7},
    ],
)
def test_no_draft_where_it_cannot_be_used(params):
    """Where a choice depends on the tokens before it other than through the model, or the answer ends with the next."""
    assert drafted(repeating(**params)) == [0]


def test_an_answer_is_not_drafted_beyond_its_end():
    """The last token of an answer is never a draft."""
    assert drafted(repeating(max_tokens=9, chance=1)) == [2]


def test_no_step_has_more_rows_than_its_memory_was_counted_for():
    """The drafts of all sequences together count."""
    assert sum(drafted(*(repeating(chance=1) for _ in range(3)), rows=8)) == 5
    assert drafted(*(repeating(chance=1) for _ in range(3)), rows=3) == [0, 0, 0]


def test_drafts_that_are_wrong_are_tried_again_after_a_while():
    """One, and the later the more rows there are."""
    hopeless = repeating(output=6, chance=0)
    assert drafted(hopeless) == [0]
    for place in range(TRIAL):
        hopeless.append((6 + place) % 3)
    assert drafted(hopeless, repeating(output=6, chance=0)) == [0, 0]
    assert drafted(hopeless) == [1]


def test_what_does_not_pay_is_seldom_searched_for(monkeypatch):
    """Also where a trial is due and the text has nothing to try; what comes to pay is drafted a few steps later."""
    searched, propose = [], Drafter.propose
    monkeypatch.setattr(Drafter, "propose", lambda self, *of: searched.append(self) or propose(self, *of))
    drafts, fresh = Drafts(8, 64, 6), sequence(tokens=200, max_tokens=400)
    hopeless = [repeating(chance=0, max_tokens=400) for _ in range(4)]
    searched.clear()
    for step in range(1 + 20 * (1 + REST)):
        fresh.append(300 + step)
        drafts.add([fresh, *hopeless])
    assert len(searched) == 21
    good, after = repeating(chance=1), 0
    while not good.drafts:
        drafts.add([good])
        after += 1
    assert after == 1 + REST


def test_a_step_that_becomes_slower_is_noticed():
    """Estimates of how long steps take are kept for a few steps."""
    drafts, counts = Drafts(8, 64, 8), []
    for step in range(2 * REFRESH):
        made = repeating(chance=1)
        drafts.add([made])
        counts.append(len(made.drafts))
        for rows in range(1, 10):
            drafts.learn(rows, 1.0 if step < REFRESH // 2 else 2.0**rows)
    assert (counts[0], counts[-1]) == (8, 0)


def test_steps_of_many_rows_are_not_made_longer_by_doubtful_drafts():
    """A step that computes much already gains nothing by a draft that may be wrong."""
    assert sum(drafted(*(repeating() for _ in range(32)))) == 0


def test_measured_times_decide():
    """Where one more row costs as much as the step, nothing is drafted; where it costs nothing, as much as may be."""
    for longer, count in ((2.0, 0), (1.0, 8)):
        drafts, one = Drafts(8, 64, 8), repeating(chance=1)
        for rows in range(1, 10):
            drafts.learn(rows, longer ** (rows - 1))
        drafts.add([one])
        assert len(one.drafts) == count


def test_drafts_pay_together_or_are_not_computed():
    """Four texts that each gain a little more than they cost have the drafts of all; a little less, of none."""
    for seconds, count in ((0.90, 8), (0.95, 0)):
        drafts, four = Drafts(8, 64, 8), [repeating(chance=1) for _ in range(4)]
        for rows in range(4, 37):
            drafts.learn(rows, 1.0 + seconds * (rows - 4) / 4)
        drafts.add(four)
        assert [len(one.drafts) for one in four] == [count] * 4


def test_times_are_estimated_from_the_nearest_measured_lately():
    """By the fixed cost of a step; what is not measured again counts no longer."""
    times = StepTimes(overhead=4)
    assert times.estimate(4) / times.estimate(1) == 8 / 5
    times.learn(1, 10.0)
    assert times.estimate(1) == 10.0
    assert times.estimate(6) == 20.0
    times.learn(4, 100.0)
    assert times.estimate(6) == 125.0
    times.learn(4, 0.0)  # a clock that stands still
    assert times.estimate(4) == 100.0
    for _ in range(FRESH):
        times.learn(1, 10.0)
    assert times.estimate(4) == 16.0
