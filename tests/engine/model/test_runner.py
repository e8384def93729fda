"""The real runner over tiny checkpoints: seeds, prefix cache, images, grammars, and logits that are not finite."""

import random
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from engine.cores import Cores
from engine.errors import ModelError
from engine.loading.loader import load_model
from engine.model.kernels.library import Kernels
from engine.model.runner import ModelRunner
from engine.model.runners import make_runner
from engine.prefix_scopes import PrefixScopes
from engine.schedule.block_pool import BLOCK, BlockPool
from engine.types import EngineConfig, TokensPrompt
from tests.checkpoints import text_spec, vision_spec
from tests.engine.driver import Driver, chat
from tests.engine.sequences import outcome

BATCHES = 120


@pytest.fixture(scope="module")
def text(text_folder, maybe_kernels):
    """A loaded text model and its runner."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, 161, 6, 256, kernels=maybe_kernels)


@pytest.fixture(scope="module")
def vision(vision_folder, maybe_kernels):
    """The same for the vision model."""
    loaded = load_model(vision_spec(vision_folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, 161, 6, 256, kernels=maybe_kernels)


@pytest.fixture
def driver(text):
    """An engine core over the text model, with no prefix known."""
    return Driver(*text, max_num_seqs=6)


def seeded(rng):
    """Return sampling parameters with a seed."""
    choices = {"top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.2, "presence_penalty": 0.5}
    picked = rng.sample(sorted(choices), rng.randint(0, 3))
    params = {name: choices[name] for name in picked}
    return params | {"temperature": rng.choice((0.5, 1.0, 1.5)), "seed": rng.randrange(1000)}


def test_a_step_takes_the_cores_that_are_left(text_folder, monkeypatch):
    """Those on which nothing of the service is computed, and the same tokens come of it."""
    cores = Cores()  # on which no other test has just computed
    monkeypatch.setattr("engine.model.runner.CORES", cores)
    loaded, before = load_model(text_spec(text_folder), lambda progress: None), torch.get_num_threads()
    config = EngineConfig(max_num_seqs=6, cpu_threads=3)
    driver = Driver(loaded, make_runner(loaded.model, 161, config, 256, lambda progress: None), max_num_seqs=6)
    seen, answers = [], []
    try:
        for jobs in (0, 1, 5, 0):
            with ExitStack() as running:
                for _ in range(jobs):
                    running.enter_context(cores.job())
                submitted = driver.submit(chat("Диван"), 4, temperature=0.0)
                driver.run()
                seen.append(torch.get_num_threads())
                answers.append(submitted.generation.result().text)
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 2, 1, 3]
    assert answers == answers[:1] * 4


@pytest.mark.slow
@pytest.mark.no_cover
def test_a_seeded_answer_is_the_same_alone_and_in_a_batch(text):
    """In random batches, with random joins, chunked and preempted: each seed gives its one answer."""
    rng = random.Random(3)
    cases = [(chat(f"Диван номер {number} price"), seeded(rng)) for number in range(10)]
    alone, pool = [], BlockPool(text[1].num_blocks)
    for prompt, params in cases:
        driver = Driver(*text, pool, max_num_seqs=6)
        submitted = driver.submit(prompt, 10, **params)
        driver.run()
        alone.append(outcome(submitted).text)
    assert len(set(alone)) == len(alone)
    for _ in range(BATCHES):
        driver = Driver(*text, pool, max_num_seqs=rng.choice((2, 4, 6)), max_num_batched_tokens=rng.choice((8, 32, 64)))
        batch = []
        for number in rng.choices(range(10), k=rng.randint(2, 8)):
            prompt, params = cases[number]
            batch.append((number, driver.submit(prompt, 10, client=rng.choice("ab"), **params)))
            driver.run(rng.randint(0, 3))
        driver.run()
        assert [outcome(submitted).text for _, submitted in batch] == [alone[number] for number, _ in batch]


@pytest.mark.needs("cc")
@pytest.mark.parametrize(("dtype", "quant"), [("bfloat16", "none"), ("bfloat16", "int8"), ("float32", "int4")])
@pytest.mark.parametrize("seeing", [False, True])
def test_packed_weights_answer_alike_alone_and_in_a_batch(seeing, dtype, quant, request, kernels, make_image):
    """For texts and for images, with prompts in chunks: batching changes no bit of a row."""
    spec = (vision_spec if seeing else text_spec)(
        request.getfixturevalue("vision_folder" if seeing else "text_folder"), dtype=dtype, quant=quant
    )
    loaded = load_model(spec, lambda progress: None)
    runner = ModelRunner(loaded.model, 161, 6, 256, kernels, quant)
    images = [make_image(84, 56, seed=number) for number in range(6)] if seeing else [None] * 6
    prompts = [chat(f"Диван номер {number} price", *([image] if image else [])) for number, image in enumerate(images)]
    alone = []
    for prompt in prompts:
        driver = Driver(loaded, runner, max_num_seqs=6)
        submitted = driver.submit(prompt, 10)
        driver.run()
        alone.append(outcome(submitted).text)
    driver = Driver(loaded, runner, max_num_seqs=6, max_num_batched_tokens=32)
    batch = [driver.submit(prompt, 10) for prompt in prompts]
    driver.run()
    assert [outcome(submitted).text for submitted in batch] == alone
    assert len(set(alone)) > 1


@pytest.mark.needs("cc")
def test_a_model_in_half_precision_samples_with_the_kernels_too(text_folder, kernels):
    """Its logits are float32, as the kernels need them, though its weights are not."""
    sampled = []

    class Counting(Kernels):
        def __init__(self):
            vars(self).update(vars(kernels))

        def sample(self, logits, rows):
            sampled.append(logits.dtype)
            super().sample(logits, rows)

    loaded = load_model(text_spec(text_folder, dtype="bfloat16"), lambda progress: None)
    driver = Driver(loaded, ModelRunner(loaded.model, 161, 6, 256, kernels=Counting()), max_num_seqs=6)
    submitted = driver.submit(chat("Hello"), 4, top_p=0.9, seed=1)
    driver.run()
    assert outcome(submitted).output_tokens >= 1
    assert set(sampled) == {torch.float32}


def test_a_cached_prefix_is_not_computed_again(driver):
    """A repeated prompt is served from the prefix cache in whole blocks, and the answers are equal."""
    prompt = chat("Продам велосипед, красный, хорошее состояние, цена 4500 рублей. Hello, fox!")
    first = driver.submit(prompt, 6)
    driver.run()
    second = driver.submit(prompt, 6)
    driver.run()
    assert outcome(first).cached_tokens == 0
    assert outcome(second).cached_tokens == (outcome(first).prompt_tokens - 1) // BLOCK * BLOCK > 0
    assert outcome(second).text == outcome(first).text
    assert driver.counters.cached_tokens == outcome(second).cached_tokens


def test_a_cached_image_is_not_embedded_again(vision, make_image):
    """Its tokens come from the prefix cache, so the vision tower does not run; for another image it does."""
    loaded, runner = vision
    calls, tower = [], runner._images._tower
    runner._images._tower = lambda pixels, grids: calls.append(1) or tower(pixels, grids)
    driver = Driver(loaded, runner, max_num_seqs=6)
    question = "Что на картинке? Какого цвета квадрат на белом фоне?"
    same = [driver.submit(chat(question, make_image(84, 84)), 5)]
    driver.run()
    same.append(driver.submit(chat(question, make_image(84, 84)), 5))
    driver.run()
    assert len(calls) == 1
    other = driver.submit(chat(question, make_image(84, 84, seed=3)), 5)
    driver.run()
    runner._images._tower = tower
    assert len(calls) == 2
    assert outcome(same[0]).text == outcome(same[1]).text
    assert outcome(same[1]).cached_tokens > 0
    assert outcome(other).cached_tokens < outcome(same[1]).cached_tokens


def test_logits_that_are_not_finite_fail_their_sequence_alone(driver):
    """NaN in a sequence's own block fails it only; the block is zeroed, and what others have computed stays found."""
    runner, prompt, pool = driver.runner, chat("Синий диван, цена 100"), driver.pool
    healthy = driver.submit(prompt, 12)
    driver.run()
    known = len(pool)
    submitted = [driver.submit(prompt, 12, request_id=str(number)) for number in range(3)]
    driver.run(4)
    own = submitted[1].blocks[-1]
    assert own not in submitted[0].blocks
    runner._cache.all[:, own] = float("nan")
    driver.run()
    assert type(outcome(submitted[1])) is ModelError
    assert {outcome(submitted[0]).text, outcome(submitted[2]).text} == {outcome(healthy).text}
    assert bool(torch.isfinite(runner._cache.all).all())
    assert len(pool) >= known > 0
    again = [driver.submit(prompt, 12) for _ in range(6)]
    driver.run()
    assert {outcome(row).text for row in again} == {outcome(healthy).text}
    assert all(outcome(row).cached_tokens for row in again)


def test_a_shared_block_that_is_not_finite_fails_who_uses_it_and_is_never_found_again(driver):
    """Those that share it fail, the next request computes it anew, and another client's prefix stays."""
    prompt = chat("Синий диван, цена 100")
    made = [driver.submit(prompt, 12, client=client) for client in "ab"]
    driver.run()
    submitted = [driver.submit(prompt, 12, client="a", request_id=str(number)) for number in range(2)]
    driver.run(2)
    shared = submitted[0].blocks[0]
    assert shared == submitted[1].blocks[0]
    driver.runner._cache.all[0, shared, 1] = float("inf")
    driver.run()
    assert [type(outcome(row)) for row in submitted] == [ModelError] * 2
    assert bool(torch.isfinite(driver.runner._cache.all).all())
    again = [driver.submit(prompt, 12, client=client) for client in "ab"]
    driver.run()
    assert [outcome(row).cached_tokens > 0 for row in again] == [False, True]
    assert {outcome(row).text for row in again} == {outcome(row).text for row in made}


def test_a_shared_prefix_of_a_thousand_tokens_is_not_copied(text_folder, maybe_kernels):
    """A second sequence reads the blocks of the first: nothing is written but its own tokens."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    runner = ModelRunner(loaded.model, 200, 4, 1100, kernels=maybe_kernels)
    driver = Driver(loaded, runner, max_num_batched_tokens=1100)
    prompt = TokensPrompt(tuple(200 + number % 90 for number in range(1009)))
    first = driver.submit(prompt, 4, ignore_eos=True)
    driver.run(2)
    shared = first.blocks[: 1008 // BLOCK]
    second = driver.submit(prompt, 4, ignore_eos=True)
    before = runner._cache.all.clone()
    driver.run(1)
    assert second.blocks[: len(shared)] == shared
    changed = (runner._cache.all != before).flatten(2).any(-1).any(0).nonzero().flatten().tolist()
    assert set(changed) <= {first.blocks[-1], second.blocks[-1]} - {*shared}
    driver.run()
    assert outcome(second).cached_tokens == len(shared) * BLOCK
    assert outcome(second).text == outcome(first).text


class Digits:
    """A grammar of three tokens out of `allowed`, then the end token."""

    ready = quick = True
    step_seconds = usual_seconds = spent = 0.0

    def __init__(self, allowed, end, vocabulary):
        self.allowed, self.end, self.vocabulary, self.taken = allowed, end, vocabulary, []

    def bitmask(self):
        words = np.zeros(-(-self.vocabulary // 32), dtype=np.uint32)
        for token in self.allowed if len(self.taken) < 3 else [self.end]:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words.view(np.int32)

    def accept(self, token_id):
        self.taken.append(token_id)
        return True

    def prepare(self):
        """It is always there."""


class LateDigits(Digits):
    """Such a grammar, of which only every third mask is there in time; the others allow all tokens."""

    looks = 0

    @property
    def late(self):
        return self.looks % 3 != 0

    def bitmask(self):
        self.looks += 1
        return np.full(-(-self.vocabulary // 32), -1, dtype=np.int32) if self.late else super().bitmask()

    def accept(self, token_id):
        return not self.late and super().accept(token_id)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_the_same_however_late_its_masks_are(driver, temperature):
    """The token of a step without its mask is dropped, and chosen again with the same random number."""
    loaded = driver.loaded
    end, texts = min(loaded.eos_token_ids), []
    for kind in (Digits, LateDigits):
        grammar = kind([201, 202, 203, 204, 205], end, loaded.vocab_size)
        answer = driver.submit(chat("Диван"), 10, token_mask=grammar, temperature=temperature, seed=7)
        beside = driver.submit(chat("Диван"), 10)
        driver.run()
        texts.append((outcome(answer).text, outcome(beside).text, grammar.taken))
    assert texts[0] == texts[1]
    assert len(grammar.taken) == 4


def test_a_grammar_constrains_its_own_row(driver):
    """In one batch with unconstrained rows, greedy and sampled: only allowed tokens, and the end as required."""
    loaded, allowed = driver.loaded, [201, 202, 203]
    end = min(loaded.eos_token_ids)
    free = driver.submit(chat("Диван"), 10)
    driver.run()
    grammars = [Digits(allowed, end, loaded.vocab_size) for _ in range(2)]
    bound = [
        driver.submit(chat("Диван"), 10, token_mask=grammar, temperature=temperature, seed=1)
        for grammar, temperature in zip(grammars, (0.0, 1.0), strict=True)
    ]
    beside = driver.submit(chat("Диван"), 10)
    driver.run()
    for submitted, grammar in zip(bound, grammars, strict=True):
        assert outcome(submitted).finish_reason == "stop"
        assert outcome(submitted).output_tokens == 4
        assert set(grammar.taken[:3]) <= set(allowed)
    assert outcome(beside).text == outcome(free).text


def test_the_end_token_ends_an_answer_unless_ignored(driver):
    """It counts as a token and has no text."""
    end = min(driver.loaded.eos_token_ids)
    ended = driver.submit(chat("Диван"), 5, logit_bias={end: 1000.0})
    ignoring = driver.submit(chat("Диван"), 5, logit_bias={end: 1000.0}, ignore_eos=True)
    driver.run()
    assert (outcome(ended).text, outcome(ended).finish_reason, outcome(ended).output_tokens) == ("", "stop", 1)
    assert (outcome(ignoring).text, outcome(ignoring).finish_reason) == ("", "length")
    assert outcome(ignoring).output_tokens == 5


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.3, "seed": 3},
        {"temperature": 1e-4, "top_p": 0.9, "seed": 3},
        {"temperature": 2.0, "top_k": 5, "min_p": 0.01, "seed": 3, "repetition_penalty": 10.0},
        {"presence_penalty": -2.0},
        {"logprobs": 2},
    ],
    ids=str,
)
def test_no_end_token_is_drawn_before_the_least_length(driver, params):
    """Nor by a bias that asks for nothing else; right behind it, and for the other rows, the bias counts again."""
    end = {min(driver.loaded.eos_token_ids): 1000.0}
    beside = driver.submit(chat("Диван"), 9, logit_bias=end)
    held = [driver.submit(chat("Диван"), 9, logit_bias=end, min_tokens=least, **params) for least in (1, 4, 8, 9)]
    driver.run()
    assert [outcome(row).output_tokens for row in (beside, *held)] == [1, 2, 5, 9, 9]
    assert [outcome(row).finish_reason for row in held] == ["stop", "stop", "stop", "length"]
    for row in held:
        assert not driver.loaded.eos_token_ids & {*outcome(row).token_ids[: row.sampling.min_tokens]}


def test_no_stop_string_ends_an_answer_before_the_least_length(driver):
    """It stays in the text; one in what comes behind it ends the answer."""
    free = driver.submit(chat("Диван"), 12, ignore_eos=True)
    driver.run()
    text = outcome(free).text
    stop = next(letter for letter in text if letter.strip())
    cut = driver.submit(chat("Диван"), 12, ignore_eos=True, stop=(stop,))
    held = driver.submit(chat("Диван"), 12, ignore_eos=True, stop=(stop,), min_tokens=5)
    driver.run()
    assert stop not in outcome(cut).text
    assert stop in outcome(held).text
    assert text.startswith(outcome(held).text)
    assert 5 < outcome(held).output_tokens


def test_the_tokens_of_an_answer_are_told(driver):
    """Those of the prompt too, if they are wanted."""
    plain = driver.submit(chat("Диван"), 5, ignore_eos=True)
    asked = driver.submit(chat("Диван"), 5, ignore_eos=True, return_token_ids=True)
    driver.run()
    assert outcome(asked).token_ids == outcome(plain).token_ids == tuple(asked.token_ids[-5:])
    assert asked.generation.prompt_token_ids == tuple(asked.token_ids[:-5])
    assert plain.generation.prompt_token_ids == ()


def test_log_probabilities_have_a_row_for_each_token(driver):
    """With the requested number of alternatives, best first, and the greedy token as the first of them."""
    submitted = driver.submit(chat("Диван"), 6, logprobs=3)
    driver.run()
    completion = outcome(submitted)
    assert len(completion.logprobs) == 6
    for row in completion.logprobs:
        assert [value for _, _, value in row.top] == sorted((value for _, _, value in row.top), reverse=True)
        assert (row.token_id, row.token) == row.top[0][:2]
        assert row.logprob == pytest.approx(row.top[0][2])
        assert len(row.top) == 3


def test_another_client_finds_nothing_cached(driver):
    """The same memo costs another client all its tokens, with exact counts; each finds its own again."""
    prompt = chat("Salary memo for person A: 412,000 roubles a month, approved by the board on 3 May.")
    made = []
    for client in ("a", "b", "b", "a"):
        made.append(driver.submit(prompt, 4, client=client))
        driver.run()
    whole = (outcome(made[0]).prompt_tokens - 1) // BLOCK * BLOCK
    assert [outcome(one).cached_tokens for one in made] == [0, 0, whole, whole]
    assert driver.counters.cached_tokens == 2 * whole
    assert len({outcome(one).text for one in made}) == 1


def test_public_tokens_are_reused_and_not_told(driver):
    """What the template writes is reused for every client; the figure counts a client's own tokens only."""
    prompt = chat("Продам велосипед, красный, хорошее состояние, цена 4500 рублей. Hello, fox!")
    ids = driver.loaded.preparer.prepare(prompt).token_ids
    driver.scopes = PrefixScopes("client", [ids[: 2 * BLOCK]])
    starts, made, begin = [], [], driver.runner.begin
    driver.runner.begin = lambda sequence: (begin(sequence), starts.append(sequence.num_computed))
    for client in ("a", "b", "b"):
        made.append(driver.submit(prompt, 4, client=client))
        driver.run()
    driver.runner.begin = begin
    whole = (len(ids) - 1) // BLOCK * BLOCK
    assert starts == [0, 2 * BLOCK, whole]
    assert [outcome(one).cached_tokens for one in made] == [0, 0, whole - 2 * BLOCK]


def test_without_sharing_a_preempted_sequence_resumes_from_its_own_tokens(driver):
    """With `none` no later request finds anything, and a preempted one still finds itself."""
    driver.scopes = PrefixScopes("none")
    prompt = chat("Синий диван, цена 100, самовывоз из центра города, торг уместен, звоните вечером.")
    starts, begin = [], driver.runner.begin
    driver.runner.begin = lambda sequence: (begin(sequence), starts.append(sequence.num_computed))
    first = driver.submit(prompt, 8, client="a")
    driver.run(4)
    driver.core.scheduler.preempt(first)
    driver.run()
    second = driver.submit(prompt, 8, client="a")
    driver.run()
    driver.runner.begin = begin
    assert starts[1] > 0
    assert (outcome(first).cached_tokens, outcome(second).cached_tokens) == (0, 0)
    assert outcome(first).text == outcome(second).text
