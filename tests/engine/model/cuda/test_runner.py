"""Flat steps, one ahead: answers equal those of one-by-one `generate()`, whatever joins, leaves or is preempted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import StartError
from engine.loading.loader import load_model
from engine.model import scoring
from engine.model.cuda import gemm, step
from engine.model.cuda.batch import StepInputs, all_buckets
from engine.model.cuda.formats import quantize
from engine.model.cuda.runner import CudaRunner, compile_first, placement
from engine.model.cuda.step import Captured, FlatStep
from engine.model.cuda.streams import Streams
from engine.model.runners import make_runner
from engine.schedule.block_pool import BlockPool
from engine.types import EngineConfig, TextPrompt, TokensPrompt
from tests.checkpoints import text_spec, vision_spec
from tests.engine.driver import Driver, chat
from tests.engine.model.cuda import substitutes
from tests.engine.model.test_equality import CONTEXT, FULL, case, run_schedules, texts
from tests.engine.model.test_scoring import check
from tests.engine.oracle import greedy
from tests.engine.sequences import sequence

SCHEDULES = 100
QUICK_SCHEDULES = 20
LONGEST_STEP = 68


def test_an_old_card_is_named(monkeypatch):
    """Before anything is compiled for it."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or above, and this one has 7\.5"):
        compile_first(torch.device("cuda"))


@pytest.fixture
def torch_kernels(monkeypatch):
    """The kernels as torch operations."""
    substitutes.put_in_place(monkeypatch)


def runner(loaded, spec=None):
    place = None if spec is None else placement(spec)
    return CudaRunner(loaded.model, FULL, rows=4, longest_context=CONTEXT, longest_step=LONGEST_STEP, place=place)


def text_runner(folder):
    loaded = load_model(text_spec(folder), lambda progress: None)
    return loaded, runner(loaded)


def rounded_and_runner(spec):
    """Return a model whose weights are what a format leaves of them, in float32, and the runner that quantizes them."""
    rounded, loaded = (load_model(replace(spec, quant="none"), lambda progress: None) for _ in range(2))
    with torch.no_grad():
        for name, weight in rounded.model.named_parameters():
            if weight.dim() == 2 and "visual." not in name:
                weight.copy_(quantize([weight], spec.quant, weight.device).dequantized())
    return rounded, loaded, runner(loaded, spec)


@pytest.mark.slow
@pytest.mark.no_cover
def test_text_answers_equal_one_by_one_generate(text_model, text_folder, torch_kernels):
    """With random joins, aborts, chunks, shared prefixes and too few blocks."""
    cases = [case(text_model, chat(text), (1, 7, 40, 60)[index % 4]) for index, text in enumerate(texts(16))]
    run_schedules(SCHEDULES, cases, *text_runner(text_folder))


@pytest.mark.slow
def test_a_few_schedules_equal_one_by_one_generate(text_model, text_folder, torch_kernels):
    """The same in short."""
    cases = [case(text_model, chat(text), 40) for text in texts(4)]
    run_schedules(QUICK_SCHEDULES, cases, *text_runner(text_folder))


@pytest.mark.slow
@pytest.mark.no_cover
def test_answers_about_images_equal_one_by_one_generate(vision_model, vision_folder, make_image, torch_kernels):
    """The same for batches of requests with no image, one, and two of different sizes."""
    sizes = [(), ((56, 84),), ((112, 56),), ((84, 84), (56, 112)), ((140, 56),)]
    cases = []
    for index, text in enumerate(texts(20)):
        images = [make_image(width, height, seed=index % 7) for width, height in sizes[index % 5]]
        cases.append(case(vision_model, chat(text, *images), (1, 7, 40, 60)[index % 4]))
    loaded = load_model(vision_spec(vision_folder), lambda progress: None)
    run_schedules(SCHEDULES, cases, loaded, runner(loaded))


def check_answers(rounded, driver, prompts, tokens):
    """Check answers in one batch, as `generate()` gives them one by one."""
    held = [driver.submit(prompt, tokens) for prompt in prompts]
    driver.run()
    answers = [sequence.generation.result().text for sequence in held]
    assert answers == [greedy(rounded, prompt, tokens)[0] for prompt in prompts]


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantized_weights_give_the_answers_of_what_they_were_rounded_to(quant, text_folder, torch_kernels):
    """Embeddings and head too, which are one weight here."""
    rounded, loaded, cuda = rounded_and_runner(text_spec(text_folder, quant=quant))
    check_answers(rounded, Driver(loaded, cuda), [chat(text) for text in texts(3)], 12)
    assert cuda._step._weights.head is cuda._step._weights.embedding


def test_fp8_gives_nearly_the_logits_of_the_model(text_folder, text_model, torch_kernels):
    """Embeddings and head are in 8 bits then."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    cuda, prompt = runner(loaded, text_spec(text_folder, quant="fp8")), probe(20)
    cuda.begin(prompt)
    found, ids = cuda.logits(prompt), torch.tensor([prompt.token_ids])
    with torch.inference_mode():
        expected = text_model.model(input_ids=ids, use_cache=False).logits[:, -1]
    assert (found - expected).norm() < 0.15 * expected.norm()


def test_a_quantized_model_sees_images(vision_folder, make_image, torch_kernels):
    """Through its tower, which stays as it is."""
    rounded, loaded, cuda = rounded_and_runner(vision_spec(vision_folder, quant="int8"))
    check_answers(rounded, Driver(loaded, cuda), [chat("Привет", make_image(56, 84)), chat("Что это?")], 12)


def test_a_step_that_fails_before_its_inputs_are_taken_changes_no_answer(
    text_model, text_folder, torch_kernels, monkeypatch
):
    """Such as for want of memory: the blocks that were new in it are sent again with the step that takes its place."""
    loaded, cuda = text_runner(text_folder)
    original, calls, failing = step.embed_tokens, [], []

    def embed_tokens(*arguments):
        calls.append(None)
        if len(calls) in failing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        original(*arguments)

    monkeypatch.setattr(step, "embed_tokens", embed_tokens)
    wanted = {text: greedy(text_model, chat(text), 40)[0] for text in texts(2)}
    for at in range(1, 30):
        calls.clear()
        failing[:] = [at]
        driver = Driver(loaded, cuda, max_num_seqs=4)
        rows = {text: driver.submit(chat(text), 40, client=text) for text in wanted}
        driver.run()
        assert {text: row.generation.result().text for text, row in rows.items()} == wanted, at


def test_no_inputs_are_written_over_before_the_device_has_read_them(text_folder, torch_kernels, monkeypatch):
    """Two steps share a buffer with one between them; those of a long prompt choose no token that is waited for."""
    loaded, cuda = text_runner(text_folder)
    launched, done = [], set()

    def mark(streams):
        number = len(launched)
        launched.append(number)
        return lambda: done.update(range(number + 1))

    original = StepInputs.fill

    def fill(inputs, plan, tables):
        assert {*launched[:-1]} <= done
        return original(inputs, plan, tables)

    monkeypatch.setattr(Streams, "mark", mark)
    monkeypatch.setattr(StepInputs, "fill", fill)
    driver = Driver(loaded, cuda, max_num_seqs=4, max_num_batched_tokens=16)
    submitted = driver.submit(TokensPrompt(tuple(range(5, 155))), 5)
    driver.run()
    assert submitted.generation.result().output_tokens == 5
    assert len(launched) > 12


@pytest.mark.parametrize("most", [1, 2, 32])
def test_the_largest_step_runs_before_the_first_request(most, text_folder, torch_kernels, monkeypatch):
    """However few sizes do; the smallest, whose kernels are compiled apart, are among them."""
    sizes, compute = all_buckets(LONGEST_STEP), FlatStep._compute
    computed = []

    def recorded(self, layout, *more):
        computed.append(layout.tokens)
        return compute(self, layout, *more)

    monkeypatch.setattr(step, "MOST_WARM_UPS", most)
    monkeypatch.setattr(step, "TILED_TOKENS", 8)
    monkeypatch.setattr(FlatStep, "_compute", recorded)
    text_runner(text_folder)[1]._step.warm_up()
    assert (computed[0], computed[-1]) == (sizes[-1], sizes[0])
    tiled = {tokens for tokens in sizes if tokens <= 8}
    assert tiled <= set(computed)
    assert len(computed) == len(set(computed)) <= most + 1 + len(tiled)


def test_a_bias_that_would_be_left_out_stops_the_start(text_folder):
    """Of the attention's output, which Qwen3 may have."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    output = loaded.model.model.layers[1].self_attn.o_proj
    output.bias = torch.nn.Parameter(torch.ones(output.out_features))
    with pytest.raises(StartError, match="has a bias"):
        runner(loaded)


def test_no_end_token_is_drawn_before_the_least_length(text_folder, torch_kernels):
    """The step that is launched before the last token is read knows how many there are."""
    driver = Driver(*text_runner(text_folder))
    end = {min(driver.loaded.eos_token_ids): 1000.0}
    params = {}, {"presence_penalty": 0.5}
    held = [driver.submit(chat("Диван"), 9, logit_bias=end, min_tokens=4, **one) for one in params]
    driver.run()
    assert [row.generation.result().output_tokens for row in held] == [5, 5]


def test_penalties_of_steps_launched_ahead_give_the_answers_of_the_processor(text_folder, torch_kernels):
    """Of the last token too, which the host has not read yet; beside rows without any, and preempted."""
    params = [
        {"repetition_penalty": 1.4}, {"frequency_penalty": 0.7}, {"presence_penalty": 2.0, "min_tokens": 9}, {},
        {"repetition_penalty": 0.7, "frequency_penalty": -0.5, "logit_bias": {7: 1.5}},
    ]  # fmt: skip
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    config = EngineConfig(max_num_seqs=4)
    expected = answers_of(
        Driver(loaded, make_runner(loaded.model, FULL, config, CONTEXT, lambda progress: None)), params
    )
    driver = Driver(*text_runner(text_folder), max_num_seqs=4, max_num_batched_tokens=16)
    assert answers_of(driver, params) == expected
    assert len(set(expected)) == len(expected)
    crowded = Driver(*text_runner(text_folder), pool=BlockPool(1 + 8), max_num_seqs=4)
    assert answers_of(crowded, params) == expected
    assert crowded.counters.preemptions


class Chain:
    """A grammar that allows other tokens after each token of the answer. every: of its tokens, the one that it takes.

    What it does not take is to be chosen again, by the same mask.
    """

    ready = quick = True
    step_seconds = usual_seconds = spent = 0.0

    def __init__(self, vocabulary, every=1):
        self.vocabulary, self.every, self.state, self.asked = vocabulary, every, 1, 0

    def allowed(self):
        """Return whether each token is allowed next."""
        return (np.arange(self.vocabulary) + self.state) % 5 == 0

    def bitmask(self):
        """Return one bit for each token."""
        bits = np.zeros(-(-self.vocabulary // 32) * 32, dtype=bool)
        bits[: self.vocabulary] = self.allowed()
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id):
        """Go on, unless it is not one to be taken."""
        assert self.allowed()[token_id]
        self.asked += 1
        if self.asked % self.every:
            return False
        self.state = (31 * self.state + token_id) % 1009
        return True

    def prepare(self):
        """It is always there."""


def test_grammars_of_steps_launched_ahead_give_the_answers_of_the_processor(text_folder, torch_kernels):
    """Whichever tokens they take; with penalties too, beside rows without any, and preempted."""
    kinds = (1, {}), (1, {"frequency_penalty": 0.7}), (3, {}), (2, {"repetition_penalty": 1.4}), (None, {})
    loaded = load_model(text_spec(text_folder), lambda progress: None)

    def params():
        for every, more in kinds:
            yield more if every is None else more | {"token_mask": Chain(loaded.vocab_size, every)}

    config = EngineConfig(max_num_seqs=4)
    processor = make_runner(loaded.model, FULL, config, CONTEXT, lambda progress: None)
    expected = answers_of(Driver(loaded, processor), params())
    loaded, cuda = text_runner(text_folder)
    assert answers_of(Driver(loaded, cuda, max_num_seqs=4, max_num_batched_tokens=16), params()) == expected
    assert expected[0] == expected[2]
    assert len(set(expected)) == len(expected) - 1
    crowded = Driver(loaded, cuda, pool=BlockPool(1 + 8), max_num_seqs=4)
    assert answers_of(crowded, params()) == expected
    assert crowded.counters.preemptions


def answers_of(driver, params):
    """Return the answers to one prompt with each of these parameters, in one batch."""
    held = [driver.submit(chat("Привет"), 40, ignore_eos=True, **one) for one in params]
    driver.run()
    return [row.generation.result().token_ids for row in held]


@pytest.mark.parametrize("budget", [64, 16])
def test_the_tokens_of_prompts_are_scored_as_by_transformers(
    text_model, text_folder, torch_kernels, monkeypatch, budget
):
    """Whole and in chunks, beside answers that go on, and with the logits of seven rows at once."""
    monkeypatch.setattr(scoring, "PART_BYTES", 4 * 7 * text_model.vocab_size)
    driver = Driver(*text_runner(text_folder), max_num_batched_tokens=budget)
    beside = driver.submit(chat("Привет"), 40)
    driver.run(3)
    prompts = [TextPrompt("Продам велосипед, красный, цена 4500 рублей."), TokensPrompt(tuple(range(5, 60)))]
    scored = [driver.submit(one, count + 1, echo=True, logprobs=count) for count, one in enumerate(prompts)]
    scored.append(driver.submit(prompts[1], 0, echo=True, logprobs=3))
    driver.run()
    for submitted, count in zip(scored, (0, 1, 3), strict=True):
        check(submitted, text_model, count)
    assert beside.generation.result().text == greedy(text_model, chat("Привет"), 40)[0]
    assert scored[2].generation.result().token_ids == ()


def probe(tokens):
    """Return a sequence of so many tokens that holds the first row and blocks."""
    held = sequence(tokens=tokens)
    held.slot, held.blocks = 0, list(range(1, 2 + held.blocks_needed()))
    return held


@pytest.mark.parametrize("tokens", [LONGEST_STEP - 1, LONGEST_STEP, LONGEST_STEP + 1, CONTEXT - 20])
def test_a_prompt_of_the_self_check_may_be_longer_than_a_step(tokens, text_folder, text_model, torch_kernels):
    """With MAX_NUM_BATCHED_TOKENS below an image of the check, no vision model would start."""
    cuda, prompt = text_runner(text_folder)[1], probe(tokens)
    cuda.begin(prompt)
    found = cuda.logits(prompt)
    with torch.inference_mode():
        expected = text_model.model(input_ids=torch.tensor([prompt.token_ids]), use_cache=False).logits[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert prompt.remaining == tokens


def test_a_graph_is_not_to_blame_for_what_its_kernels_give_as_well(text_folder, torch_kernels, monkeypatch, caplog):
    """Random tokens may overflow in float16: without graphs they would too."""
    cuda = text_runner(text_folder)[1]
    cuda._step.captured = Captured((8,))
    monkeypatch.setattr(cuda, "_probed", lambda sequence, graphs: torch.full((1, 5), torch.nan))
    cuda.check(lambda prompt: probe(8))
    assert "are not finite" in caplog.text


def test_graphs_that_equal_their_kernels_pass_the_check(text_folder, torch_kernels):
    """Every captured number of tokens is tried, as far as a context is that long."""
    _, cuda = text_runner(text_folder)
    tried = []
    cuda._step.captured = Captured((1, 8, CONTEXT))
    cuda.check(lambda prompt: tried.append(len(prompt.token_ids)) or probe(len(prompt.token_ids)))
    assert tried == [1, 1, 8, 8]


@pytest.mark.parametrize("factor", [1.1, float("nan"), float("inf")])
def test_a_graph_that_differs_from_its_kernels_stops_the_start(factor, text_folder, torch_kernels, monkeypatch):
    """What a graph replays must be what its kernels compute: a wrong one would be wrong for every client."""
    _, cuda = text_runner(text_folder)
    cuda._step.captured = Captured((8,))
    results = iter([torch.ones(1, 4) * factor, torch.ones(1, 4)])
    monkeypatch.setattr(cuda, "_probed", lambda sequence, graphs: next(results))
    with pytest.raises(StartError, match="CUDA_GRAPHS=false"):
        cuda.check(lambda prompt: probe(8))


def rows_of(cuda):
    """Return how many rows the sampler has."""
    return len(cuda._step._chooser.logits)


class Replaying:
    """A captured graph of the sampler that gives these tokens for its rows, whatever the kernels do."""

    def __init__(self, cuda, rows, token):
        self.result, self.rows, self.token, self.count = cuda._step._chooser._result, rows, token, 0

    def replay(self):
        self.count += 1
        self.result[0, : self.rows], self.result[1, : self.rows] = self.token, 1


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("ranked", [False, True])
def test_a_graph_of_the_sampler_that_gives_other_tokens_stops_the_start(rows, ranked, text_folder, torch_kernels):
    """Each captured number of rows is tried, and both kinds; one that was not captured is not asked for."""
    cuda = text_runner(text_folder)[1]
    graph = Replaying(cuda, rows, 5)
    cuda._step._chooser._graphs._graphs[rows, ranked] = graph
    with pytest.raises(StartError, match=f"other tokens than its kernels for {rows} rows: set CUDA_GRAPHS=false"):
        cuda.check(lambda prompt: probe(8))
    assert graph.count == 1


@pytest.mark.parametrize("wrong", ["greedy", "ranked", "flag"])
def test_a_sampler_that_chooses_a_wrong_token_stops_the_start(wrong, text_folder, torch_kernels, monkeypatch):
    """In the last row alone that takes its best token only, or that says it has logits which are none."""
    original = substitutes.Sampler.__call__
    cuda = text_runner(text_folder)[1]
    last = {"greedy": 0, "ranked": 2, "flag": 1}[wrong]
    assert rows_of(cuda) > last

    def mistaken(self, logits, parameters, numbers, slots, tokens, finite, last_tokens, ranked=True):
        original(self, logits, parameters, numbers, slots, tokens, finite, last_tokens, ranked)
        if wrong == "flag":
            finite[last] = 0
        elif wrong == "greedy" or (ranked and parameters[last, 1] == 1):
            tokens[last] = (tokens[last] + 1) % logits.shape[1]

    monkeypatch.setattr(substitutes.Sampler, "__call__", mistaken)
    with pytest.raises(StartError, match="do not choose the best token"):
        cuda.check(lambda prompt: probe(8))


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_the_kernels_of_quantized_weights_give_the_answers_of_generate(quant, text_folder):
    """The whole step in the interpreter, against a model of the weights that they read."""
    rounded, loaded, cuda = rounded_and_runner(text_spec(text_folder, quant=quant))
    check_answers(rounded, Driver(loaded, cuda), [chat("Привет")], 2)


@pytest.mark.no_cover
@pytest.mark.slow
@pytest.mark.parametrize("skinny", [False, True])
def test_the_kernels_give_the_answers_of_generate(skinny, text_model, text_folder, monkeypatch):
    """The same with the Triton kernels, for two short answers in one batch; their GEMMs too, or those of torch."""
    if skinny:
        monkeypatch.setattr(gemm, "tiles_for", substitutes.tiles_for_any)
    questions = ["Привет", "Напиши объявление: диван"]
    driver = Driver(*text_runner(text_folder))
    driver.runner._step.check_sampler()
    sequences = [driver.submit(chat(text), 4) for text in questions]
    scored = driver.submit(TextPrompt("Красный диван"), 1, echo=True, logprobs=1)
    driver.run()
    check(scored, text_model, 1)
    answers = [sequence.generation.result().text for sequence in sequences]
    assert answers == [greedy(text_model, chat(text), 4)[0] for text in questions]
