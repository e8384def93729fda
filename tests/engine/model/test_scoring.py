"""The log probabilities of prompts' tokens: those of transformers, whatever else is in the batch, and in any chunks."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.errors import ModelError
from engine.loading.loader import load_model
from engine.loading.step_memory import own_sampling_bytes, sampling_bytes
from engine.model import scoring
from engine.model.choice import Choice
from engine.model.cuda.scores import Scores
from engine.model.runner import ModelRunner
from engine.types import TextPrompt, TokensPrompt
from tests.checkpoints import text_spec
from tests.engine.driver import Driver, chat
from tests.engine.sequences import outcome

DEMO = Path(__file__).parents[3] / "demo" / "avibe"
TEXTS = ["Продам велосипед, красный, цена 4500 рублей.", "Hello", "a 🙂 b\n" * 12, " x"]


def runner_of(folder, kernels, blocks=161):
    loaded = load_model(text_spec(folder), lambda progress: None)
    return loaded, ModelRunner(loaded.model, blocks, 6, 256, kernels=kernels)


@pytest.fixture(scope="module")
def reference():
    """The demo as transformers computes it."""
    return load_model(text_spec(DEMO), lambda progress: None)


@pytest.fixture(scope="module")
def demo(maybe_kernels):
    """The demo and its runner."""
    return runner_of(DEMO, maybe_kernels)


@pytest.fixture
def driver(demo):
    return Driver(*demo, max_num_seqs=6)


def expected(loaded, ids):
    """Return the log probabilities [len(ids) - 1, vocabulary] behind each token of a prompt but the last."""
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([ids], device=loaded.model.device)).logits[0, :-1]
        return torch.log_softmax(logits.float(), dim=-1).cpu()


def check(submitted, loaded, count):
    """Check the echo of a finished sequence against transformers."""
    ids, told = submitted.token_ids[: submitted.num_prompt], outcome(submitted).echo.logprobs
    wanted = expected(loaded, ids)
    assert [one.token_id for one in told] == ids
    own = torch.tensor([one.logprob for one in told[1:]])
    assert own.allclose(wanted.gather(1, torch.tensor(ids[1:])[:, None])[:, 0], atol=1e-4)
    best = wanted.topk(max(1, count), dim=-1)
    for one, values, tokens in zip(told[1:], best.values, best.indices.tolist(), strict=True):
        assert torch.tensor([value for _, _, value in one.top]).allclose(values[:count], atol=1e-4)
        assert [token for token, _, _ in one.top][:1] == tokens[: min(count, 1)]


def beside_in(driver, steps=10_000):
    """Submit two other requests, and run so many steps."""
    submitted = [driver.submit(chat("Привет"), 20, temperature=1.0, seed=seed) for seed in (1, 2)]
    driver.run(steps)
    return submitted


@pytest.mark.parametrize("budget", [320, 16])
@pytest.mark.parametrize("part_rows", [1, 7, 1000])
def test_they_are_those_of_transformers(demo, reference, monkeypatch, budget, part_rows):
    """Beside other requests, for texts and for ids, in chunks, and with the logits of a few rows at once."""
    monkeypatch.setattr(scoring, "PART_BYTES", 4 * part_rows * demo[0].vocab_size)
    alone = beside_in(Driver(*demo, max_num_seqs=6))
    driver = Driver(*demo, max_num_seqs=6, max_num_batched_tokens=budget)
    beside = beside_in(driver, steps=3)
    scored = [driver.submit(TextPrompt(text), 4, echo=True, logprobs=count) for count, text in enumerate(TEXTS)]
    scored.append(driver.submit(TokensPrompt(tuple(range(5, 90))), 1, echo=True, logprobs=1))
    driver.run()
    for submitted, count in zip(scored, (0, 1, 2, 3, 1), strict=True):
        check(submitted, reference, count)
    assert [outcome(row).text for row in beside] == [outcome(row).text for row in alone]


def test_answers_are_what_they_are_without_them(driver):
    """Of the same prompt, greedy and drawn, with their own log probabilities."""
    for params in ({}, {"temperature": 1.0, "seed": 5, "top_p": 0.9}):
        plain = driver.submit(TextPrompt(TEXTS[0]), 9, logprobs=2, **params)
        scored = driver.submit(TextPrompt(TEXTS[0]), 9, logprobs=2, echo=True, **params)
        driver.run()
        assert outcome(scored).text == outcome(plain).text
        assert outcome(scored).token_ids == outcome(plain).token_ids
        assert outcome(plain).echo is None


def test_what_is_cached_of_the_prompt_is_computed_again(driver, reference):
    """A prompt that was answered before, and one that was scored before, by whom the next one finds it."""
    prompt = TextPrompt(TEXTS[2])
    first, again = driver.submit(prompt, 2), driver.submit(prompt, 2, echo=True, logprobs=1)
    driver.run()
    later = driver.submit(prompt, 2, echo=True, logprobs=1)
    found = driver.submit(prompt, 2)
    driver.run()
    for submitted in (again, later):
        assert outcome(submitted).cached_tokens == 0
        check(submitted, reference, 1)
    assert outcome(found).cached_tokens > 0
    assert outcome(found).text == outcome(first).text


def test_a_sequence_that_gives_way_is_scored_once(reference, maybe_kernels):
    """In the middle of its prompt, and behind it; the blocks do not suffice for all."""
    driver = Driver(*runner_of(DEMO, maybe_kernels, blocks=15), max_num_seqs=6, max_num_batched_tokens=32)
    ids = [tuple(range(start, start + 85)) for start in range(5, 35, 10)]
    scored = [
        driver.submit(TokensPrompt(one), 60, client=f"{n}", echo=True, logprobs=1, ignore_eos=True)
        for n, one in enumerate(ids)
    ]
    driver.run()
    assert driver.counters.preemptions
    for submitted in scored:
        check(submitted, reference, 1)


def test_a_prompt_alone_may_be_asked_for(driver, reference):
    """No token is generated; with one of a single token too."""
    submitted = driver.submit(TextPrompt(TEXTS[0]), 0, echo=True, logprobs=1)
    plain = driver.submit(TextPrompt(TEXTS[0]), 0, echo=True)
    one = driver.submit(TokensPrompt((5,)), 0, echo=True, logprobs=1)
    driver.run()
    check(submitted, reference, 1)
    for ended in (submitted, plain, one):
        completion = outcome(ended)
        assert (completion.text, completion.token_ids, completion.output_tokens) == ("", (), 0)
        assert completion.finish_reason == "length"
    assert outcome(plain).echo.text == TEXTS[0]
    assert outcome(plain).echo.logprobs == []
    assert len(outcome(one).echo.logprobs) == 1
    assert driver.counters.generation_tokens == 0


def test_the_first_piece_has_the_prompt(driver):
    """And no later one."""
    submitted = driver.submit(TextPrompt(TEXTS[0]), 6, echo=True, logprobs=1, ignore_eos=True)
    driver.run()
    first, *others = submitted.generation._pieces
    assert first.echo.text == outcome(submitted).echo.text == TEXTS[0]
    assert [piece.echo for piece in others] == [None] * len(others)


def test_texts_and_places_are_those_of_the_prompt(driver):
    """Parts of characters have their bytes; joined, all are the text."""
    submitted = driver.submit(TextPrompt(TEXTS[2]), 1, echo=True, logprobs=0)
    driver.run()
    echo = outcome(submitted).echo
    assert b"".join(one.data for one in echo.logprobs).decode() == echo.text == TEXTS[2]
    for one in echo.logprobs:
        if "\ufffd" not in one.token:
            assert echo.text[one.offset :].startswith(one.token)


def test_log_probabilities_that_are_no_numbers_fail_the_sequence_alone(demo, monkeypatch):
    """No client is shown one."""
    driver = Driver(*demo, max_num_seqs=6)
    nothing = {"_scores": lambda span, states: [Choice(token, True, math.nan) for token in span.targets]}
    monkeypatch.setattr(driver.runner, *nothing.popitem())
    beside = driver.submit(chat("Привет"), 3)
    submitted = driver.submit(TextPrompt(TEXTS[0]), 3, echo=True, logprobs=1)
    driver.run()
    assert isinstance(outcome(submitted), ModelError)
    assert outcome(beside).output_tokens
    assert driver.counters.nan_logits == 1


@pytest.mark.parametrize("vocabulary", [300, 151_936])
def test_what_is_scored_at_once_fits_the_budget(vocabulary):
    """Beside the logits of all rows; log probabilities take as much again. A card reads its head for many rows."""
    for rows in (1, 2, 16, 27, 28, 55, 64, 256):
        text, size = SimpleNamespace(vocab_size=vocabulary), scoring.part_rows(vocabulary, rows, on_card=True)
        assert 1 <= scoring.part_rows(vocabulary, rows) <= size <= rows <= 2 * size + 1
        taken = 4 * vocabulary * (rows + 2 * size)
        assert taken <= sampling_bytes(text, rows)
        assert taken <= own_sampling_bytes(text, rows)


def test_a_card_reads_its_head_once_for_many_rows(monkeypatch):
    """For half of those that may sample in one step, at least; all are scored once and in their order."""
    monkeypatch.setattr(scoring, "PART_BYTES", 4 * 7 * 16)
    states, found, read = torch.randn(100, 16), [], []
    targets = torch.randint(16, (100,)).tolist()

    def logits_of(part, logits):
        read.append(len(part))
        logits.copy_(part)

    span = SimpleNamespace(
        sequence=SimpleNamespace(sampling=SimpleNamespace(logprobs=1)),
        rows=range(100),
        targets=targets,
        add=lambda scores, done: found.extend(scores),
    )
    Scores.launch([span], states, logits_of, vocabulary=16, most=64).collect()
    assert read == [32, 32, 32, 4]
    assert [choice.token_id for choice in found] == targets
    exact = torch.log_softmax(states, dim=-1)[torch.arange(100), torch.tensor(targets)]
    assert torch.tensor([choice.logprob for choice in found]).allclose(exact, atol=1e-5)


def test_a_part_covers_every_row_once():
    """The last one may be smaller."""
    assert [part.indices(7)[:2] for part in scoring.parts(7, 3)] == [(0, 3), (3, 6), (6, 7)]
