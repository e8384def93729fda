"""On a GPU: a batch equals plain `generate()` in float32, and half precision stays finite.

Run with `./deploy.sh test -m gpu` on a machine with an NVIDIA GPU, or as one part of `python -m benchmarks.card`.
"""

from __future__ import annotations

import random

import pytest

from benchmarks.harness.workload import draw_image
from engine.model.runners import make_runner
from engine.text.images import check_header
from engine.types import EngineConfig, TextPrompt
from tests.engine.driver import Driver, chat
from tests.engine.model.test_scoring import check
from tests.engine.oracle import greedy

pytestmark = pytest.mark.gpu

PROMPTS = ["Привет!", "Write a listing for a used bicycle, red.", "Что на картинке? " * 12, "the quick brown fox"]


def driver_over(loaded):
    """Return a driver over the runner of the device."""
    return Driver(loaded, make_runner(loaded.model, 81, EngineConfig(max_num_seqs=4), 256, lambda progress: None))


def test_a_batch_on_the_gpu_equals_one_by_one_generate(checkpoint, exact_float32):
    """In float32 the batch gives what `generate()` gives alone."""
    oracle = checkpoint.load("float32")
    expected = [greedy(oracle, chat(text), 12)[0] for text in PROMPTS]
    driver = driver_over(checkpoint.load("float32"))
    sequences = [driver.submit(chat(text), 12) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().text for sequence in sequences] == expected


def test_answers_about_images_equal_one_by_one_generate(checkpoints, exact_float32):
    """In float32, for images of several sizes and shapes in one batch, beside a text."""
    checkpoint, rng = checkpoints["vision"], random.Random(0)
    oracle = checkpoint.load("float32")
    images = [check_header(draw_image(rng, sides)) for sides in ((56, 84), (40, 300), (224, 224))]
    prompts = [chat("Что на картинке?", image) for image in images] + [chat(PROMPTS[0])]
    expected = [greedy(oracle, prompt, 12)[0] for prompt in prompts]
    driver = driver_over(checkpoint.load("float32"))
    sequences = [driver.submit(prompt, 12) for prompt in prompts]
    driver.run()
    assert [sequence.generation.result().text for sequence in sequences] == expected
    assert len(set(expected)) == len(prompts)


def test_the_tokens_of_prompts_are_scored_as_by_transformers(checkpoint, exact_float32):
    """In float32, beside answers that go on; these are what they are alone."""
    oracle = checkpoint.load("float32")
    driver = driver_over(checkpoint.load("float32"))
    beside = driver.submit(chat(PROMPTS[0]), 30)
    driver.run(5)
    scored = [driver.submit(TextPrompt(text), 2, echo=True, logprobs=1) for text in PROMPTS[1:]]
    driver.run()
    for submitted in scored:
        check(submitted, oracle, 1)
    assert beside.generation.result().text == greedy(oracle, chat(PROMPTS[0]), 30)[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_answers_are_complete(checkpoint, dtype):
    """Every request of a batch in half precision finishes with the number of tokens it requested."""
    driver = driver_over(checkpoint.load(dtype))
    sequences = [driver.submit(chat(text), 12, temperature=0.7, seed=1, ignore_eos=True) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().output_tokens for sequence in sequences] == [12] * len(PROMPTS)
    assert driver.counters.nan_logits == 0
