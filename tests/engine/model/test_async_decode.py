"""Async decode: steps launched before the tokens of the previous step are known give the same answers."""

import pytest
import torch

from engine.loading.loader import load_model
from engine.model.cuda_graphs import DecodeGraph, length_buckets, row_buckets
from engine.model.prefix_cache import BLOCK
from engine.model.runner import ModelRunner
from engine.types import TokensPrompt
from tests.checkpoints import text_spec
from tests.engine.driver import Driver, chat

TEXTS = ["Привет!", "Write a listing for a used bicycle, red.", "the quick brown fox"]


@pytest.fixture(scope="module")
def loaded(text_folder):
    """The text checkpoint; the runner takes over its weights."""
    return load_model(text_spec(text_folder), lambda progress: None)


@pytest.fixture(scope="module")
def runner(loaded):
    """A runner that decodes asynchronously, one step ahead."""
    return ModelRunner(loaded.model, 4, 256, prefix_tokens=256, decode_graphs=True)


@pytest.fixture
def computed(monkeypatch):
    """A list with one entry for each computed decode step."""
    steps = []
    compute = DecodeGraph._compute

    def counting(self):
        steps.append(self)
        return compute(self)

    monkeypatch.setattr(DecodeGraph, "_compute", counting)
    return steps


def answers(sequences):
    return [sequence.generation.result().text for sequence in sequences]


def alone(loaded, runner, prompt, **params):
    driver = Driver(loaded, runner)
    sequence = driver.submit(prompt, 12, ignore_eos=True, **params)
    driver.run()
    return sequence.generation.result().text


def test_a_steady_batch_computes_no_step_twice(loaded, runner, computed):
    """While no sequence joins, every step launched ahead is used: 11 steps after the first token."""
    driver = Driver(loaded, runner, max_num_batched_tokens=256)
    for text in TEXTS:
        driver.submit(chat(text), 12, ignore_eos=True)
    driver.run()
    assert len(computed) == 11


def test_the_step_in_flight_when_the_last_sequence_leaves_is_dropped(loaded, runner, computed):
    """An abort wastes at most the one step that was already launched."""
    driver = Driver(loaded, runner)
    sequence = driver.submit(chat(TEXTS[0]), 50, ignore_eos=True)
    driver.run(5)
    sequence.generation.abort()
    driver.run()
    assert len(computed) == 5
    assert driver.core.scheduler.running == []


def test_a_row_that_needs_its_tokens_is_not_launched_ahead(loaded, runner, computed):
    """Penalties depend on the answer so far, so the next step waits for the token; they still change the answer."""
    prompt = chat(TEXTS[1])
    text = alone(loaded, runner, prompt, repetition_penalty=1.3)
    assert len(computed) == 11
    assert text != alone(loaded, runner, prompt)


def test_a_preempted_sequence_continues_with_the_same_answer(loaded, runner):
    """A preempted sequence gets a new slot; a step in flight for its old slot is not used for it."""
    driver = Driver(loaded, runner, max_num_seqs=2)
    greedy = [driver.submit(chat(text), 12, client="greedy", ignore_eos=True) for text in TEXTS[:2]]
    driver.run(4)
    driver.submit(chat(TEXTS[2]), 12, client="other", ignore_eos=True)
    driver.run()
    assert driver.counters.preemptions == 1
    assert answers(greedy) == [alone(loaded, runner, chat(text)) for text in TEXTS[:2]]


def test_seeded_answers_are_the_same_with_and_without_async_decode(loaded, runner, text_folder):
    """The random numbers of a row are used in order, whether its step was launched ahead or not."""
    plain_loaded = load_model(text_spec(text_folder), lambda progress: None)
    plain = ModelRunner(plain_loaded.model, 4, 256, prefix_tokens=256)
    for seed in range(5):
        params = {"temperature": 0.9, "seed": seed, "logprobs": 2}
        assert alone(loaded, runner, chat(TEXTS[1]), **params) == alone(plain_loaded, plain, chat(TEXTS[1]), **params)


def test_a_finished_row_keeps_its_keys_and_values(text_folder):
    """A step launched ahead for other rows does not overwrite the last token of a row that reached `max_tokens`."""
    cached = []
    for decode_graphs in (False, True):
        loaded = load_model(text_spec(text_folder), lambda progress: None)
        runner = ModelRunner(loaded.model, 4, 256, prefix_tokens=1024, decode_graphs=decode_graphs)
        driver = Driver(loaded, runner)
        short = driver.submit(TokensPrompt(tuple(range(200, 210))), 2 * BLOCK - 10 + 1, ignore_eos=True)
        driver.submit(TokensPrompt(tuple(range(100, 120))), 60, ignore_eos=True)
        driver.run()
        blocks = runner._prefixes.match([*short.keys()[: 2 * BLOCK], "next"], short.scope)
        assert len(blocks) == 2
        cached.append(runner._blocks.all[:, blocks])
    torch.testing.assert_close(*cached, rtol=1e-3, atol=1e-3)


def test_the_largest_bucket_is_the_size_of_the_cache():
    """Every batch and every length has a bucket, and no bucket is larger than the cache."""
    assert row_buckets(64) == [1, 2, 4, 8, 16, 32, 48, 64]
    assert row_buckets(3) == [1, 2, 3]
    assert length_buckets(4096) == [256, 512, 1024, 2048, 4096]
    assert length_buckets(300) == [256, 300]
