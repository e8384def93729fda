"""On a GPU: a batch equals plain `generate()` in float32, and half precision stays finite.

Run with `./deploy.sh test -m gpu` on a machine with an NVIDIA GPU, or as one part of `python -m benchmarks.card`.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from benchmarks.harness.workload import draw_image
from engine.loading.quantization import FP8_CAPABILITY
from engine.model.cuda.formats import quantize
from engine.model.runners import make_runner
from engine.text.images import check_header
from engine.types import EngineConfig, TextPrompt
from tests.engine.driver import Driver, chat
from tests.engine.model.test_scoring import check
from tests.engine.oracle import greedy

pytestmark = pytest.mark.gpu

PROMPTS = ["Привет!", "Write a listing for a used bicycle, red.", "Что на картинке? " * 12, "the quick brown fox"]


def driver_over(loaded, spec=None):
    """Return a driver over the runner of the device. spec: where and in which format the weights are computed."""
    config = EngineConfig(max_num_seqs=4)
    return Driver(loaded, make_runner(loaded.model, 81, config, 256, lambda progress: None, spec))


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


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantized_weights_give_the_answers_of_what_they_were_rounded_to(checkpoint, device, quant, exact_float32):
    """In float32, with the kernels of packed weights, graphs and all."""
    if device == "cpu":
        pytest.skip("A processor rounds activations too.")
    rounded, loaded = checkpoint.load("float32"), checkpoint.load("float32")
    with torch.no_grad():
        for name, weight in rounded.model.named_parameters():
            if weight.dim() == 2 and "visual." not in name:
                weight.copy_(quantize([weight], quant, weight.device).dequantized())
    expected = [greedy(rounded, chat(text), 12)[0] for text in PROMPTS]
    driver = driver_over(loaded, replace(checkpoint.spec("float32"), quant=quant))
    sequences = [driver.submit(chat(text), 12) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().text for sequence in sequences] == expected


@pytest.mark.parametrize(("quant", "dtype"), [("int8", "float16"), ("int4", "bfloat16"), ("fp8", "bfloat16")])
def test_quantized_answers_in_half_precision_are_complete(checkpoint, device, quant, dtype):
    """Every request of a batch finishes with the number of tokens it requested, all of them finite."""
    if quant == "fp8" and (device == "cpu" or torch.cuda.get_device_capability() < FP8_CAPABILITY):
        pytest.skip("This device multiplies no FP8, and the service refuses it there.")
    driver = driver_over(checkpoint.load(dtype), replace(checkpoint.spec(dtype), quant=quant))
    sequences = [driver.submit(chat(text), 12, temperature=0.7, seed=1, ignore_eos=True) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().output_tokens for sequence in sequences] == [12] * len(PROMPTS)
    assert driver.counters.nan_logits == 0
