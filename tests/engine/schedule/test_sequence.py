"""One sequence: its counts, its own random numbers, its end, and the parts of its answer."""

import random

import pytest

from engine.types import ChatPrompt, TokenLogprob
from tests.engine.sequences import sequence

EOS = frozenset({25})


def test_a_sequence_counts_what_is_left_to_compute():
    """More than one token during prefill, exactly one while decoding."""
    one = sequence(tokens=4, max_tokens=3)
    assert (one.remaining, one.num_output, one.cost) == (4, 0, 7)
    one.num_computed = 4
    one.append(5)
    assert (one.remaining, one.num_output) == (1, 1)
    assert one.keys() == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(("max_tokens", "cost"), [(1, 5), (256, 260), (257, 260), (2048, 260)])
def test_a_long_bound_costs_no_more_than_a_usual_answer(max_tokens, cost):
    """What it generates beyond that counts once it has been generated."""
    one = sequence(tokens=4, max_tokens=max_tokens)
    assert (one.cost, one.uncounted) == (cost, 0)
    for _ in range(300):
        one.append(0)
    assert one.uncounted == 300 - 256


def test_a_seed_gives_the_same_numbers_and_one_for_each_token():
    """Two calls for a step give the same number, so a step can be repeated; the next token has another."""
    numbers = []
    for _ in range(2):
        one = sequence(seed=7)
        first = one.uniform()
        assert one.uniform() == first
        one.append(0)
        numbers.append((first, one.uniform()))
    assert numbers[0] == numbers[1]
    assert numbers[0][0] != numbers[0][1]


@pytest.mark.parametrize("seed", [1, 7, 2**31, 2**62 + 1, 2**63 - 1])
def test_the_sign_of_a_seed_counts(seed):
    """Each of the 64-bit seeds has numbers of its own; one that is not negative has those that Python gives it."""
    assert sequence(seed=seed).uniform() == random.Random(seed).random()
    assert sequence(seed=seed).uniform() != sequence(seed=-seed).uniform()
    assert sequence(seed=-seed).uniform() == sequence(seed=-seed).uniform()
    assert sequence(seed=-(2**63)).uniform() != sequence(seed=0).uniform()


def test_without_a_seed_two_sequences_differ():
    """Each draws from a separate generator."""
    assert sequence().uniform() != sequence().uniform()


def test_a_sequence_without_bias_and_penalties_adjusts_nothing():
    """Nor does one whose values are neutral; one with a grammar does, without a list of tokens."""
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}}
    plain, masked = sequence(**neutral), sequence(token_mask=object())
    plain.append(3)
    assert (plain.adjustments, plain.adjusts_logits, plain.needs_its_tokens) == (None, False, False)
    assert (masked.adjustments, masked.adjusts_logits, masked.needs_its_tokens) == (None, True, True)


def test_an_answer_ends_at_a_stop_string_the_end_token_or_its_length():
    """In this order; with ignore_eos the end token is skipped."""
    one = sequence(max_tokens=2)
    one.append(1)
    assert one.finish_reason(1, EOS) is None
    assert one.finish_reason(25, EOS) == "stop"
    one.append(1)
    assert one.finish_reason(1, EOS) == "length"
    ignoring = sequence(max_tokens=2, ignore_eos=True)
    ignoring.append(25)
    assert ignoring.finish_reason(25, EOS) is None
    stopping = sequence(max_tokens=9, stop=("bc",))
    for token in (1, 2):
        stopping.append(token)
        stopping.detokenizer.add(token)
    assert stopping.finish_reason(2, EOS) == "stop"


def test_a_preempted_sequence_waits_until_its_whole_deadline():
    """The queue timeout no longer applies once it has started."""
    one = sequence(arrival=10.0, wait=5.0, timeout=60.0)
    assert one.waits_until == 15.0
    one.started_at = 12.0
    assert one.waits_until == 70.0
    assert sequence(wait=30.0, timeout=2.0).waits_until == 2.0


def test_pieces_joined_are_the_completion():
    """The parts together are the answer, with its log probabilities and timings."""
    one = sequence(tokens=4, arrival=100.0)
    one.started_at, one.first_token_at, one.cached_tokens = 101.0, 103.0, 2
    pieces = []
    for token, text in ((1, "b"), (2, "c")):
        one.append(token)
        one.unsent_text += text
        one.unsent_tokens.append(token)
        one.unsent_logprobs.append(TokenLogprob(token, text, -1.0))
        pieces.append(one.take_piece(104.0))
    completion = one.completion("length", 105.0)
    assert "".join(piece.text for piece in pieces) == completion.text == "bc"
    assert sum((piece.token_ids for piece in pieces), ()) == (1, 2)
    assert sum((piece.logprobs for piece in pieces), ()) == completion.logprobs
    assert (completion.prompt_tokens, completion.output_tokens, completion.cached_tokens) == (4, 2, 2)
    assert (completion.timings.queued, completion.timings.first_token, completion.timings.total) == (1.0, 3.0, 5.0)


def test_the_offsets_of_tokens_are_kept_where_the_model_may_reason():
    """Whatever was sent meanwhile; elsewhere nobody asks for them."""
    for thinking, offsets in ((True, (0, 1, 2)), (False, ())):
        one = sequence(prompt=ChatPrompt((), thinking=thinking))
        for token in (1, 2, 3):
            one.append(token)
            one.add_text(token)
            if token == 2:
                assert one.take_piece(1.0).token_ids == (1, 2)
        one.take_piece(2.0, last=True)
        completion = one.completion("stop", 3.0)
        assert (completion.text, completion.token_offsets) == ("bcd", offsets)


@pytest.mark.parametrize("stop", ["bcx", "cdx", "bcdx", "dx"])
def test_what_a_stop_string_holds_back_moves_no_token(stop):
    """Each begins behind the text of those before it, whether that was sent or not."""
    one = sequence(prompt=ChatPrompt((), thinking=True), stop=(stop,))
    for token in (1, 2, 3):
        one.append(token)
        one.add_text(token)
    assert one.token_offsets == [0, 1, 2]


def test_a_token_without_text_behind_a_stop_string_has_no_log_probability():
    """One at the end of the text that is shown has."""
    one = sequence()
    one.unsent_text = "b"
    one.unsent_logprobs = [
        TokenLogprob(1, "b", -1.0),
        TokenLogprob(2, "", -1.0, offset=1),
        TokenLogprob(3, "", -1.0, offset=2),
    ]
    assert [each.token_id for each in one.take_piece(1.0, last=True).logprobs] == [1, 2]


def test_an_answer_without_a_token_has_no_time_of_a_first_one():
    """Such figures are absent, not zero."""
    timings = sequence(arrival=1.0).completion("abort", 3.0).timings
    assert (timings.queued, timings.first_token, timings.total) == (2.0, None, 2.0)


def test_a_finished_sequence_releases_its_images():
    """Megabytes of pixels do not outlive the request."""
    one = sequence()
    one.images = one.positions = object()
    one.image_embeds[0] = object()
    one.release()
    assert one.images is one.positions is None
    assert not one.image_embeds
