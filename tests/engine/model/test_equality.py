"""The engine's answers equal those of one-by-one `generate()` in any batch, with joins, aborts and preemption."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from engine.errors import RequestAborted
from engine.loading.loader import load_model
from engine.model.runner import ModelRunner
from engine.prefix_scopes import PrefixScopes
from engine.schedule.block_pool import BLOCK, BlockPool, blocks_for
from engine.text.images import decode
from engine.text.processor import load_processor
from tests.checkpoints import text_spec, vision_spec, write_text_checkpoint
from tests.engine.driver import Driver, chat
from tests.engine.oracle import greedy

# Each for text and for images, with the kernels and without; then the same with `--long`.
SCHEDULES = 200, 400
TORCH_SCHEDULES = 100, 200
QUICK_SCHEDULES = 20
CONTEXT = 208  # tokens
FULL, TIGHT = 5 * blocks_for(CONTEXT) + 1, (8, 9, 11, 15)  # blocks; in tight ones sequences must be preempted
LENGTHS = (1, 7, 40, 60)
WORDS = "велосипед red диван good квадрат price picture 4500 объявление fox used синий what цена".split()


def texts(count):
    """Prompts of 1 to 60 words, a third of them with a shared prefix."""
    rng = random.Random(7)
    shared = " ".join(rng.choices(WORDS, k=30))
    bodies = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]
    return [f"{shared} {body}" if index % 3 == 0 else body for index, body in enumerate(bodies)]


def case(loaded, prompt, tokens):
    """Return a prompt, its number of tokens to generate, the expected outcome, and how many blocks both take."""
    whole = len(loaded.preparer.prepare(prompt).token_ids) + tokens
    return prompt, tokens, greedy(loaded, prompt, tokens), blocks_for(whole)


@pytest.fixture(scope="module")
def text_cases(text_model):
    """The cases of text requests."""
    return [case(text_model, chat(text), LENGTHS[index % 4]) for index, text in enumerate(texts(24))]


@pytest.fixture(scope="module")
def vision_cases(vision_model, make_image):
    """The same with no image, one, or two of different sizes."""
    sizes = [(), ((56, 84),), ((112, 56),), ((84, 84), (56, 112)), ((140, 56),)]
    cases = []
    for index, text in enumerate(texts(20)):
        images = [make_image(width, height, seed=index % 7) for width, height in sizes[index % 5]]
        cases.append(case(vision_model, chat(text, *images), LENGTHS[index % 4]))
    return cases


@pytest.fixture(scope="module")
def text_runner(text_folder, maybe_kernels):
    """A runner over its own copy of the text checkpoint, whose weights it takes over."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, FULL, 4, CONTEXT, kernels=maybe_kernels)


@pytest.fixture(scope="module")
def vision_runner(vision_folder, maybe_kernels):
    """The same for the vision checkpoint."""
    loaded = load_model(vision_spec(vision_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, FULL, 4, CONTEXT, kernels=maybe_kernels)


class CountingPool(BlockPool):
    """Counts the blocks that could be found until others needed them."""

    evicted = 0

    def allocate(self, count):
        known = len(self)
        allocated = super().allocate(count)
        self.evicted += known - len(self)
        return allocated


class Pools:
    """The pool of one runner over many schedules: it keeps what it has, until another size takes its place."""

    def __init__(self):
        self._pool, self._evicted = None, 0

    @property
    def evicted(self):
        """How many blocks all pools have evicted."""
        return self._evicted + self._pool.evicted

    def pick(self, rng):
        if self._pool is None or rng.random() < 0.2:
            self._evicted += 0 if self._pool is None else self._pool.evicted
            self._pool = CountingPool(rng.choice((FULL, *TIGHT)))
        return self._pool


def run_schedule(seed, cases, loaded, runner, pools):
    """Submit and abort requests at random moments; return (case, sequence, aborted) of each, and the counters."""
    rng = random.Random(seed)
    driver = Driver(loaded, runner, pools.pick(rng), max_num_seqs=4, max_num_batched_tokens=rng.choice((5, 16, 64)))
    driver.scopes = PrefixScopes(rng.choice(("client", "all", "all", "none")))
    cases = [case for case in cases if case[3] <= driver.pool.num_blocks - 1]
    submitted = []
    for _ in range(rng.randint(2, 8)):
        picked = rng.choice(cases)
        sequence = driver.submit(picked[0], picked[1], client=rng.choice("aab"), priority=rng.choice((0, 0, 1)))
        aborted = rng.random() < 0.15
        submitted.append((picked, sequence, aborted))
        driver.run(rng.choice((0, 0, 1, 2, 5)))
        if aborted:
            sequence.generation.abort()
    driver.run()
    driver.core.check_idle()
    assert driver.room.num_in_flight() == 0
    assert driver.pool.used == 0
    return submitted, driver.counters


def run_schedules(count, cases, loaded, runner):
    """Run so many schedules, and check that they share prefixes, preempt sequences and evict blocks."""
    pools, preemptions, cached = Pools(), 0, 0
    for seed in range(count):
        submitted, counters = run_schedule(seed, cases, loaded, runner, pools)
        assert_equal(submitted)
        preemptions += counters.preemptions
        cached += counters.cached_tokens
    assert preemptions > count // 5
    assert cached > count * BLOCK
    assert pools.evicted > count


def assert_equal(submitted):
    """Each finished answer is the oracle's; an aborted request ends as aborted or had finished before."""
    for picked, sequence, aborted in submitted:
        try:
            completion = sequence.generation.result()
        except RequestAborted:
            assert aborted
            continue
        assert (completion.text, completion.finish_reason, completion.output_tokens) == picked[2]


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
@pytest.mark.no_cover
def test_text_answers_equal_one_by_one_generate(text_cases, text_runner, maybe_kernels, often):
    """With random joins, aborts, chunks, shared prefixes and too few blocks, every answer is that of `generate()`."""
    run_schedules(often(*(SCHEDULES if maybe_kernels else TORCH_SCHEDULES)), text_cases, *text_runner)


@pytest.mark.slow
@pytest.mark.no_cover
def test_answers_about_images_equal_one_by_one_generate(vision_cases, vision_runner, maybe_kernels, often):
    """The same for batches of requests with no image, one, and two of different sizes."""
    run_schedules(often(*(SCHEDULES if maybe_kernels else TORCH_SCHEDULES)), vision_cases, *vision_runner)


def test_a_few_schedules_equal_one_by_one_generate(text_model, text_runner):
    """The same in short, for each run of the quick tests."""
    cases = [case(text_model, chat(text), 40) for text in texts(4)]
    run_schedules(QUICK_SCHEDULES, cases, *text_runner)


@pytest.mark.slow
def test_a_preempted_answer_is_the_same_answer(text_model, text_cases, text_runner):
    """A preempted sequence continues where it was: the client sees the same text."""
    driver = Driver(*text_runner, max_num_seqs=2)
    prompts = [prompt for prompt, *_ in text_cases[:2]]
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
    plain = load_model(text_spec(folder), lambda progress: None)
    expected = [case(plain, chat(text), 40) for text in texts(6)]
    loaded = load_model(text_spec(folder), lambda progress: None)
    runner = ModelRunner(loaded.model, FULL, 4, CONTEXT, kernels=kernels)
    run_schedules(QUICK_SCHEDULES, expected, loaded, runner)
