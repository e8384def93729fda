"""The engine's answers equal those of one-by-one `generate()` in any batch, with joins, aborts and preemption."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from engine.errors import RequestAborted
from engine.loading.loader import load_model
from engine.model.runner import ModelRunner
from engine.text.images import decode
from engine.text.processor import load_processor
from tests.checkpoints import text_spec, vision_spec, write_text_checkpoint
from tests.engine.driver import Driver, chat
from tests.engine.oracle import greedy

SCHEDULES = 300  # each for text and for images
FIXED_SHAPE_SCHEDULES = 60
LENGTHS = (1, 3, 7, 12)
WORDS = "велосипед red диван good квадрат price picture 4500 объявление fox used синий what цена".split()


def texts(count):
    """Prompts of 1 to 60 words, a third of them with a shared prefix."""
    rng = random.Random(7)
    shared = " ".join(rng.choices(WORDS, k=30))
    bodies = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]
    return [f"{shared} {body}" if index % 3 == 0 else body for index, body in enumerate(bodies)]


@pytest.fixture(scope="module")
def text_cases(text_model):
    """(prompt, tokens, expected outcome) of text requests."""
    cases = [(chat(text), LENGTHS[index % 4]) for index, text in enumerate(texts(24))]
    return [(prompt, tokens, greedy(text_model, prompt, tokens)) for prompt, tokens in cases]


@pytest.fixture(scope="module")
def vision_cases(vision_model, make_image):
    """The same with no image, one, or two of different sizes."""
    sizes = [(), ((56, 84),), ((112, 56),), ((84, 84), (56, 112)), ((140, 56),)]
    cases = []
    for index, text in enumerate(texts(20)):
        images = [make_image(width, height, seed=index % 7) for width, height in sizes[index % 5]]
        cases.append((chat(text, *images), LENGTHS[index % 4]))
    return [(prompt, tokens, greedy(vision_model, prompt, tokens)) for prompt, tokens in cases]


@pytest.fixture(scope="module")
def text_runner(text_folder, maybe_kernels):
    """A runner over its own copy of the text checkpoint, whose weights it takes over."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, 4, 256, prefix_tokens=512, kernels=maybe_kernels)


@pytest.fixture(scope="module")
def vision_runner(vision_folder, maybe_kernels):
    """The same for the vision checkpoint."""
    loaded = load_model(vision_spec(vision_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, 4, 256, prefix_tokens=512, kernels=maybe_kernels)


@pytest.fixture(scope="module", params=["text", "vision"])
def fixed_shapes(request):
    """(cases, loaded, runner) of each model, with decode steps in the fixed shapes that CUDA graphs need."""
    folder = request.getfixturevalue(f"{request.param}_folder")
    spec = {"text": text_spec, "vision": vision_spec}[request.param](folder)
    loaded = load_model(spec, lambda progress: None)
    runner = ModelRunner(loaded.model, 4, 256, prefix_tokens=512, decode_graphs=True)
    return request.getfixturevalue(f"{request.param}_cases"), loaded, runner


def run_schedule(seed, cases, loaded, runner):
    """Submit and abort requests at random moments; return (case, sequence, aborted) of each."""
    rng = random.Random(seed)
    driver = Driver(loaded, runner, max_num_seqs=4, max_num_batched_tokens=rng.choice((5, 16, 64)))
    if rng.random() < 0.2:
        runner.clear()
    submitted = []
    for _ in range(rng.randint(2, 8)):
        case = rng.choice(cases)
        sequence = driver.submit(case[0], case[1], client=rng.choice("abc"), priority=rng.choice((0, 0, 1)))
        aborted = rng.random() < 0.15
        submitted.append((case, sequence, aborted))
        driver.run(rng.choice((0, 0, 1, 2, 5)))
        if aborted:
            sequence.generation.abort()
    driver.run()
    driver.core.check_idle()
    assert driver.room.num_in_flight() == 0
    return submitted


def assert_equal(submitted):
    """Each finished answer is the oracle's; an aborted request ends as aborted or had finished before."""
    for case, sequence, aborted in submitted:
        try:
            completion = sequence.generation.result()
        except RequestAborted:
            assert aborted
            continue
        assert (completion.text, completion.finish_reason, completion.output_tokens) == case[2]


def test_text_answers_equal_those_of_transformers(text_folder, text_runner):
    """Token for token, for the same ids and a model that transformers has loaded."""
    model = AutoModelForCausalLM.from_pretrained(text_folder, dtype=torch.float32)
    loaded, runner = text_runner
    for question in ("Привет", "Напиши объявление: диван", "Hello, <|im_end|> what?"):
        ids = loaded.preparer.prepare(chat(question)).token_ids
        wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40, eos_token_id=[499, 501])
        driver = Driver(loaded, runner)
        sequence = driver.submit(chat(question), 40)
        driver.run()
        assert sequence.token_ids == wanted[0].tolist()


def test_answers_about_images_equal_those_of_transformers(vision_folder, vision_runner, make_image):
    """An image, a text and another image, each prepared by the processor of transformers for a new model."""
    processor = load_processor(vision_folder)
    loaded, runner = vision_runner
    for image in (make_image(60, 90), None, make_image(120, 60, seed=2)):
        prompt = chat("Что тут?", *([image] if image else []))
        rendered = processor.tokenizer.apply_chat_template(
            list(prompt.messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        pixels = {"images": [decode(image)]} if image else {}
        inputs = processor(text=[rendered], return_tensors="pt", **pixels)
        fresh = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=torch.float32)
        wanted = fresh.generate(**inputs, do_sample=False, max_new_tokens=16, eos_token_id=[499, 501])
        driver = Driver(loaded, runner)
        sequence = driver.submit(prompt, 16)
        driver.run()
        assert sequence.token_ids == wanted[0].tolist()


@pytest.mark.slow
def test_text_answers_equal_one_by_one_generate(text_cases, text_runner):
    """With random joins, aborts, chunked prompts and cached prefixes, every answer is that of `generate()` alone."""
    for seed in range(SCHEDULES):
        assert_equal(run_schedule(seed, text_cases, *text_runner))


@pytest.mark.slow
def test_answers_about_images_equal_one_by_one_generate(vision_cases, vision_runner):
    """The same for batches of requests with no image, one, and two of different sizes."""
    for seed in range(SCHEDULES):
        assert_equal(run_schedule(seed, vision_cases, *vision_runner))


@pytest.mark.slow
def test_decoding_in_fixed_shapes_gives_the_same_answers(fixed_shapes):
    """The step that a CUDA graph captures computes the same as the flat step and leaves other slots intact."""
    cases, loaded, runner = fixed_shapes
    for seed in range(FIXED_SHAPE_SCHEDULES):
        assert_equal(run_schedule(seed, cases, loaded, runner))


@pytest.mark.slow
def test_a_preempted_answer_is_the_same_answer(text_model, text_cases, text_runner):
    """A preempted sequence continues where it was: the client sees the same text."""
    driver = Driver(*text_runner, max_num_seqs=2)
    prompts = [prompt for prompt, _, _ in text_cases[:2]]
    preempted = [driver.submit(prompt, 12, client="greedy") for prompt in prompts]
    driver.run(4)
    driver.submit(text_cases[2][0], 12, client="other")
    driver.run()
    assert driver.counters.preemptions == 1
    for sequence, prompt in zip(preempted, prompts, strict=True):
        assert sequence.generation.result().text == greedy(text_model, prompt, 12)[0]


@pytest.mark.needs("cc")
def test_unsupported_head_sizes_use_torch_attention(tmp_path, kernels):
    """A model with a head size that the kernels do not support gives the same answers."""
    folder = write_text_checkpoint(tmp_path, head_dim=24)
    cases = [(chat(text), 7) for text in texts(6)]
    plain = load_model(text_spec(folder), lambda progress: None)
    expected = [(prompt, tokens, greedy(plain, prompt, tokens)) for prompt, tokens in cases]
    loaded = load_model(text_spec(folder), lambda progress: None)
    runner = ModelRunner(loaded.model, 4, 256, prefix_tokens=512, kernels=kernels)
    for seed in range(10):
        assert_equal(run_schedule(seed, expected, loaded, runner))
