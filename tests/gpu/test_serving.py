"""Engines on a GPU under what clients do: cold lengths, one long chat, a second model that starts, hours of load."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time

import pytest
import torch

from benchmarks.harness.in_process import Clients
from engine.types import GenerationRequest, SamplingParams, TokensPrompt
from tests.engine.oracle import greedy

pytestmark = pytest.mark.gpu

# Ten minutes or more say whether memory grows; a short run says that the test works.
SOAK_SECONDS = float(os.environ.get("GPU_SOAK_SECONDS", "12"))
TEXT_TOKENS = 400  # ids below are text in every test vocabulary
GROWTH = 64 << 20  # bytes that an allocator may still add after it has seen every shape once


def prompt(length):
    """Return a prompt of random tokens of text; equal lengths give equal prompts."""
    rng = random.Random(length)
    return TokensPrompt(tuple(rng.randrange(TEXT_TOKENS) for _ in range(length)))


def request(tokens, max_tokens, name="r", **params):
    """Return a request without a sampling temperature that ends at its number of tokens."""
    sampling = SamplingParams(max_tokens, **({"temperature": 0.0, "ignore_eos": True} | params))
    return GenerationRequest(name, tokens, sampling, queue_timeout=300.0, timeout=300.0)


def texts(engine, requests):
    """Submit all at once and return the texts of the answers."""
    answers = [engine.submit(one) for one in requests]
    return [answer.result().text for answer in answers]


def test_prompts_of_every_length_cold(checkpoints, device, exact_float32):
    """No length from 50 to 300 tokens was seen before; each answer is what `generate()` gives alone."""
    checkpoint = checkpoints["text"]
    oracle = checkpoint.load("float32")
    prompts = [prompt(length) for length in range(50, 301, 5 if device == "cuda" else 50)]
    expected = [expected_text(oracle, one, 8) for one in prompts]
    with checkpoint.serving("float32", max_num_seqs=32) as engine:
        assert texts(engine, [request(one, 8, ignore_eos=False) for one in prompts]) == expected


def test_a_long_row_changes_no_answer_of_63_short_ones(checkpoints, device, exact_float32):
    """Its prompt is read in chunks beside their decoding, and its context is split among programs."""
    checkpoint = checkpoints["text"]
    oracle = checkpoint.load("float32")
    short = 63 if device == "cuda" else 5
    prompts = [prompt(length) for length in (2100, *range(20, 20 + short))]
    lengths = [40, *(20 + number % 40 for number in range(short))]
    expected = [expected_text(oracle, one, length) for one, length in zip(prompts, lengths, strict=True)]
    with checkpoint.serving("float32", max_num_seqs=64, max_model_len=2304, kv_cache_tokens=64 * 2304) as engine:
        wanted = [request(one, length, ignore_eos=False) for one, length in zip(prompts, lengths, strict=True)]
        assert texts(engine, wanted[1:] + wanted[:1]) == expected[1:] + expected[:1]


def expected_text(oracle, one, max_tokens):
    """Return what `generate()` gives for at most `max_tokens` tokens."""
    return greedy(oracle, one, max_tokens)[0]


def test_a_second_model_that_starts_disturbs_no_answer(checkpoints):
    """The first one is asked all the while: memory is allocated as the other captures its graphs."""
    first, second = checkpoints["text"].engine("float16"), checkpoints["vision"].engine("float16")
    first.start()
    try:
        group = Clients(first, (request(prompt(50 + n % 250), 16) for n in itertools.count()), 8)
        group.start()
        while not group.take_outcomes():
            time.sleep(0.01)
        second.start()
        during = group.take_outcomes()
        group.stop()
        assert during
        assert {outcome.error for outcome in during + group.take_outcomes()} == {None}
        assert second.submit(request(prompt(60), 4)).result().output_tokens == 4
        assert first.stats().engine_restarts_total == 0
    finally:
        first.stop(0.0)
        second.stop(0.0)


def test_two_engines_start_at_once(checkpoints):
    """Both load and capture in their own threads, then both answer."""
    engines = [checkpoints[kind].engine("float16") for kind in ("text", "vision")]
    failures = []

    def start(engine):
        try:
            engine.start()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert failures == []
        prompts = TokensPrompt(tuple(range(40, 90)))
        assert all(engine.submit(request(prompts, 8)).result().output_tokens == 8 for engine in engines)
    finally:
        for engine in engines:
            engine.stop(0.0)


def test_memory_is_flat_under_load(checkpoints, device):
    """Both models with 64 clients each; GPU_SOAK_SECONDS=600 is the form that proves something."""
    clients = 64 if device == "cuda" else 2
    limits = {"max_num_seqs": clients, "kv_cache_tokens": clients * 640, "prefix_cache": True}
    engines = [checkpoints[kind].engine("float16" if device == "cuda" else "float32", **limits) for kind in checkpoints]
    for engine in engines:
        engine.start()
    groups = [Clients(engine, random_requests(seed), clients) for seed, engine in enumerate(engines)]
    for group in groups:
        group.start()
    time.sleep(SOAK_SECONDS / 2)
    before = used(device)
    time.sleep(SOAK_SECONDS / 2)
    after = used(device)
    for group in groups:
        group.stop()
    outcomes = [outcome for group in groups for outcome in group.take_outcomes()]
    restarts = [engine.stats().engine_restarts_total for engine in engines]
    not_finite = [engine.stats().nan_logits_total for engine in engines]
    for engine in engines:
        engine.stop(0.0)
    assert len(outcomes) > clients
    assert {outcome.error for outcome in outcomes} == {None}
    assert (restarts, not_finite) == ([0, 0], [0, 0])
    assert after - before <= GROWTH


def random_requests(seed):
    """Yield sampled requests of random lengths without end."""
    rng = random.Random(seed)
    for number in itertools.count():
        yield request(prompt(rng.randint(50, 300)), rng.randint(8, 64), temperature=0.7, seed=number)


def used(device):
    """Return the bytes of the card that this process holds, for tensors or later ones."""
    return torch.cuda.memory_reserved() if device == "cuda" else 0
