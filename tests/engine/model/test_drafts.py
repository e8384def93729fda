"""An answer with drafts is token for token the answer without them."""

from __future__ import annotations

import pytest

from engine.loading.loader import load_model
from engine.model.runner import ModelRunner
from engine.schedule.block_pool import BLOCK
from engine.types import TokensPrompt
from tests.checkpoints import text_spec
from tests.engine.driver import Driver, chat

pytestmark = pytest.mark.needs("cc")
REPEATING = "диван, диван, диван, red red red, 1 2 3 1 2 3 1 2 3"
PARAMS = (
    {},
    {"temperature": 0.4, "seed": 3},
    {"temperature": 0.8, "top_p": 0.9, "seed": 7, "logprobs": 3},
    {"logit_bias": {7: 9.0, 9: 9.0}, "temperature": 0.6, "seed": 1},
    {"repetition_penalty": 1.3},
    {"min_tokens": 5},
    {"logprobs": 0},
)


@pytest.fixture(scope="module", params=["none", "int8"])
def drafting(request, text_folder, kernels):
    """A loaded model and its runner, in float32 and in 8 bits."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, 80, 8, 208, kernels, request.param)


def answers(drafting, drafts, spoil=lambda plan: None):
    """Return what every request answers, all at once, and the counters."""
    loaded, runner = drafting
    runner.drafts = runner.ahead = drafts
    driver = Driver(loaded, runner, max_num_seqs=8)
    submitted = [
        driver.submit(chat(f"{REPEATING} {number}"), 60, client=str(number % 3), **params)
        for number, params in enumerate(PARAMS)
    ]
    inner, runner.run = runner.run, lambda plan: spoil(plan) or inner(plan)
    try:
        driver.run()
    finally:
        del runner.run
    driver.core.check_idle()
    assert driver.pool.used == 0
    found = [sequence.generation.result() for sequence in submitted]
    return found, driver.counters


def assert_same(found, plain):
    """Check that answers are the same tokens, with the same log probabilities as far as float32 adds up."""
    for one, other in zip(found, plain, strict=True):
        assert (one.text, one.finish_reason, one.token_ids) == (other.text, other.finish_reason, other.token_ids)
        ours, theirs = ([each.logprob for each in answer.logprobs] for answer in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_drafts_change_no_answer(drafting):
    """Greedy and drawn, with and without log probabilities; many of them are right, and each saves a step."""
    plain, without = answers(drafting, 0)
    found, counters = answers(drafting, 8)
    assert_same(found, plain)
    assert without.draft_tokens == 0
    assert 0 < counters.accepted_draft_tokens <= counters.draft_tokens
    assert counters.generation_tokens == without.generation_tokens
    assert counters.steps < without.steps


def test_a_step_that_finds_no_memory_for_its_drafts_does_without(drafting):
    """No request fails for what was computed in vain."""
    failures = []

    def spoil(plan):
        if any(sequence.drafts for sequence in plan.decode):
            failures.append(plan)
            raise RuntimeError("CUDA out of memory.")

    found, counters = answers(drafting, 8, spoil)
    assert failures
    assert counters.accepted_draft_tokens == 0
    assert_same(found, answers(drafting, 0)[0])


def test_what_was_drafted_is_found_as_a_prefix(drafting):
    """Drafts that were right left keys and values as any token does: who goes on from there computes none again."""
    loaded, runner = drafting
    runner.drafts = runner.ahead = 8
    driver, fresh = Driver(loaded, runner, max_num_seqs=8), Driver(loaded, runner, max_num_seqs=8)
    first = driver.submit(chat(REPEATING), 60, logit_bias={7: 9.0, 9: 9.0})
    driver.run()
    assert driver.counters.accepted_draft_tokens > 0
    whole = TokensPrompt(tuple(first.token_ids))
    found, computed = driver.submit(whole, 20), fresh.submit(whole, 20)
    driver.run()
    fresh.run()
    assert found.cached_tokens >= first.num_prompt + first.num_output - 2 * BLOCK
    assert computed.cached_tokens == 0
    assert found.token_ids == computed.token_ids
