"""The sampler of a card against NumPy in double precision, which sorts each row as the definitions say."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engine.model.cuda.sampling import (
    Sampler,
    adjust_rows,
    allow_tokens,
    is_ranked,
    packed_adjustments,
    parameters_of,
)
from engine.model.cuda.sampling_kernels import HEAD
from engine.model.sampler import apply_adjustments
from engine.model.scoring import log_probabilities
from tests.engine.model.cuda.compile_kernels import compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

# One chunk, two with an odd end, and four.
VOCABULARIES = (26, 5001, 13000)


def parameters(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, masked=False):
    """Return the parameters of a row."""
    return [temperature, top_k, top_p, min_p, masked]


@pytest.fixture
def choose(device):
    """Return a function that samples rows, and returns their tokens and whether they are finite."""

    def chosen(logits, rows, numbers, listed=16384, ranked=True):
        sampler = Sampler(len(rows), logits.shape[1], logits.dtype, device, listed)
        tokens, finite = torch.full((2, len(rows)), -9, dtype=torch.int32, device=device)
        last = torch.full((len(rows),), -9, dtype=torch.long, device=device)
        sampler(
            logits.to(device),
            torch.tensor(rows, dtype=torch.float32, device=device),
            torch.tensor(numbers, dtype=torch.float32, device=device),
            torch.arange(len(rows), device=device),
            tokens,
            finite,
            last,
            ranked,
        )
        assert last.tolist() == tokens.tolist()
        return tokens.tolist(), finite.tolist()

    return chosen


def random_logits(rows, vocabulary, seed, dtype=torch.float32):
    """Return logits with a spread like a model's."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=generator) * 3).to(dtype)


def random_row(rng):
    """Return random parameters, each absent as a rule."""
    choices = {
        "temperature": (0.0, 0.3, 0.7, 1.9),
        "top_k": (1, 3, 50, 4000),
        "top_p": (0.0, 0.4, 0.9, 0.999),
        "min_p": (0.001, 0.05, 0.5, 1.0),
    }
    return parameters(**{name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.5})


def kept_weights(logits, temperature, top_k, top_p, min_p, masked=False):
    """Return the weights [V] of the kept tokens in double precision, and how close a decision was."""
    values = logits.double().numpy()
    weights = np.exp((values - values.max()) / temperature)
    order = np.argsort(-values, kind="stable")[: top_k or len(values)]
    ranked = weights[order] / weights[order].sum()
    before = np.cumsum(ranked) - ranked
    # The token that reaches top_p is kept, so the best always is.
    kept = (before < top_p) | (np.arange(len(order)) == 0)
    # Rounding decides about tokens whose weight is next to a limit.
    margin = np.abs(before[1:] / top_p - 1).min(initial=1) if 0 < top_p < 1 else 1
    margin = min(margin, np.abs(weights / min_p - 1).min()) if 0 < min_p < 1 else margin
    chosen = order[kept & (weights[order] >= min_p)]
    result = np.zeros_like(weights)
    result[chosen] = weights[chosen]
    return result, margin


def expected_token(logits, row, number):
    """Return the token of a row, None if rounding decides between two."""
    if row[0] == 0:
        return int(logits.float().argmax())
    weights, margin = kept_weights(logits, *row)
    sums = np.cumsum(weights) / weights.sum()
    if margin < 3e-6 or np.abs(sums - number)[weights > 0].min() < 3e-6:
        return None
    return int(np.searchsorted(sums, number, side="right"))


def check_rows(vocabulary, listed, dtype, choose, count):
    """Assert that random rows get the tokens of their numbers."""
    rng = random.Random(vocabulary + listed)
    rows = [random_row(rng) for _ in range(count)]
    numbers = [rng.random() for _ in rows]
    logits = random_logits(len(rows), vocabulary, listed, dtype)
    tokens, finite = choose(logits, rows, numbers, listed)
    assert finite == [1] * len(rows)
    expected = [expected_token(*each) for each in zip(logits, rows, numbers, strict=True)]
    assert [found for found, wanted in zip(tokens, expected, strict=True) if wanted is not None] == [
        wanted for wanted in expected if wanted is not None
    ]
    assert sum(wanted is None for wanted in expected) <= count / 4


def test_rows_of_all_kinds_get_the_tokens_of_their_numbers(dtype, choose):
    """With few rows, for the inner loop."""
    check_rows(5001, 1000, dtype, choose, 5)


@pytest.mark.no_cover
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("listed", [16384, 64])
def test_every_combination_of_parameters_gives_the_token_of_its_number(vocabulary, listed, dtype, choose, often):
    """Among rows of all kinds, with short lists of candidates and with lists that overflow."""
    check_rows(vocabulary, listed, dtype, choose, often(8, 16))


@pytest.mark.parametrize("top_p", [0.5, 0.8, 0.95])
def test_top_p_is_a_part_of_what_top_k_left(top_p, choose):
    """Even where the list of candidates holds no more than that."""
    logits = torch.full((3, 5001), 0.0)
    logits[:, [7, 4200, 4999]] = torch.tensor([3.0, 4.0, 3.5])
    row = parameters(top_k=3, top_p=top_p)
    weights, _ = kept_weights(logits[0], *row)
    kept = np.flatnonzero(weights)
    tokens, _ = choose(logits, [row] * 3, [0.0, 0.5, 1 - 2**-23])
    assert tokens == [kept[0], expected_token(logits[0], row, 0.5), kept[-1]]


@pytest.mark.no_cover
@pytest.mark.parametrize("listed", [16384, 4])
@pytest.mark.parametrize(
    "row",
    [
        parameters(top_k=5),
        parameters(top_k=1),
        parameters(top_k=40),
        parameters(top_p=0.3),
        parameters(top_p=0.0),
        parameters(top_k=9, top_p=0.7),
        parameters(top_k=30, top_p=0.99, min_p=0.3),
        parameters(temperature=0.5, min_p=0.2),
    ],
)
def test_of_equal_logits_exactly_the_first_are_kept(row, listed, choose):
    """Where a limit falls between equal logits, the tokens that are drawn are those of the lowest ids."""
    logits = torch.randint(0, 4, (100,), generator=torch.Generator().manual_seed(3)).float()
    weights, margin = kept_weights(logits, *row)
    assert margin > 1e-5
    kept, sums = np.flatnonzero(weights), np.cumsum(weights) / weights.sum()
    middle = len(kept) // 2
    numbers = [0.0, sums[kept[middle]] - 1e-4, sums[kept[middle]] + 1e-4, 1 - 2**-23]
    tokens, _ = choose(logits.expand(4, -1), [row] * 4, numbers, listed)
    assert tokens == [kept[0], kept[middle], kept[min(middle + 1, len(kept) - 1)], kept[-1]]


def test_greedy_rows_take_the_first_of_the_largest_logits(choose):
    """Also where equal logits are in different chunks."""
    logits = torch.zeros(3, 9000)
    logits[0, [8999, 5000, 4096]] = 2.0
    logits[2, :] = -5.0
    assert choose(logits, [parameters(temperature=0.0)] * 3, [0.9] * 3, ranked=False) == ([4096, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("ranks", [{}, {"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.1}])
def test_the_lowest_temperature_is_greedy(ranks, dtype, choose):
    """Nothing overflows: the largest logit is drawn, or one equal to it."""
    logits = random_logits(4, 5001, 2, dtype) * 30
    tokens, _ = choose(logits, [parameters(temperature=1e-4, **ranks)] * 4, [0.0, 0.3, 0.7, 1 - 2**-23])
    assert [float(row[token]) for row, token in zip(logits, tokens, strict=True)] == logits.amax(dim=-1).tolist()


@pytest.mark.no_cover
@pytest.mark.parametrize("ranks", [{}, {"top_p": 0.9}, {"top_k": 5000}, {"min_p": 0.9}])
def test_a_very_high_temperature_draws_from_all(ranks, choose):
    """The weights are equal up to rounding, so a limit falls where its count says."""
    tokens, _ = choose(random_logits(2, 5001, 6), [parameters(temperature=1e6, **ranks)] * 2, [0.0, 1 - 2**-23])
    assert tokens[0] < 10
    assert tokens[1] > 4900


@pytest.mark.parametrize("ranks", [{}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.5}, {"temperature": 0.0}])
def test_a_distribution_of_one_token_gives_that_token(ranks, dtype, choose):
    """Whatever the number is, even where all other weights are zero."""
    logits = torch.full((3, 9000), -300.0, dtype=dtype)
    for row, token in enumerate((0, 4095, 8999)):
        logits[row, token] = 300.0
    assert choose(logits, [parameters(**ranks)] * 3, [0.0, 0.5, 1 - 2**-23])[0] == [0, 4095, 8999]


@pytest.mark.no_cover
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_reported_and_changes_no_other(value, choose):
    """The token of such a row is one of the vocabulary; with a grammar -inf is finite."""
    rows = [parameters(), parameters(temperature=0.0), parameters(top_k=8), parameters(masked=True)]
    numbers = [0.1, 0.2, 0.7, 0.9]
    logits = random_logits(len(rows), 5001, 4, torch.float16)
    healthy, _ = choose(logits, rows, numbers)
    for bad in range(len(rows)):
        broken = logits.clone()
        broken[bad, 4500] = value
        tokens, finite = choose(broken, rows, numbers)
        masked = value == float("-inf") and rows[bad][4]
        assert finite == [int(row != bad or masked) for row in range(len(rows))]
        assert [token for row, token in enumerate(tokens) if row != bad] == [
            token for row, token in enumerate(healthy) if row != bad
        ]
        assert 0 <= tokens[bad] < 5001


@pytest.mark.parametrize("ranked", [True, False])
def test_a_row_of_nothing_but_bad_values_gives_some_token(ranked, choose):
    """Nothing is read or written out of bounds."""
    logits = torch.full((4, 5001), float("nan"))
    logits[2:] = float("-inf")
    rows = [parameters(), parameters(temperature=0.0), parameters(top_p=0.5), parameters(masked=True)]
    tokens, finite = choose(logits, rows, [0.5] * 4, ranked=ranked)
    assert finite == [0, 0, 0, 0]
    assert all(0 <= token < 5001 for token in tokens)


@pytest.mark.no_cover
def test_a_row_does_not_depend_on_its_neighbours(dtype, choose):
    """Alone, or elsewhere among others, a row gives the same token, however close its number is to a limit."""
    rng = random.Random(7)
    rows = [random_row(rng) for _ in range(6)]
    numbers = [rng.random() for _ in rows]
    logits = random_logits(len(rows), 9000, 11, dtype)
    together, _ = choose(logits, rows, numbers)
    for index in range(len(rows)):
        assert choose(logits[index : index + 1], [rows[index]], [numbers[index]])[0] == [together[index]]
    backwards, _ = choose(logits.flip(0), rows[::-1], numbers[::-1])
    assert backwards == together[::-1]


@pytest.mark.no_cover
def test_without_ranked_rows_the_short_way_gives_the_same(choose):
    """Plain and greedy rows need two launches."""
    rows = [parameters(temperature=temperature) for temperature in (0.0, 0.5, 1.0, 1.5)] * 3
    logits, numbers = random_logits(12, 9000, 5), np.linspace(0, 0.99, 12)
    assert choose(logits, rows, numbers, ranked=False) == choose(logits, rows, numbers, ranked=True)


def test_logits_may_be_rows_of_a_wider_tensor_and_slots_may_be_absent(device):
    """Padding rows of a step write no last token."""
    wide = random_logits(3, 120, 1).to(device)
    tokens, finite, last = torch.zeros(3, 3, dtype=torch.long, device=device)
    sampler = Sampler(4, 100, torch.float32, device)
    greedy = torch.zeros(3, 5, device=device)
    slots = torch.tensor([2, -1, 0], dtype=torch.int32, device=device)
    sampler(wide[:, :100], greedy, greedy[:, 0], slots, tokens, finite, last)
    assert tokens.tolist() == wide[:, :100].argmax(dim=-1).tolist()
    assert last.tolist() == [int(tokens[2]), 0, int(tokens[0])]
    assert sampler.nbytes > 0


def test_a_grammar_allows_only_the_tokens_of_its_bitmask(device, dtype):
    """In its rows only; tokens beyond the end of the bitmask are not allowed."""
    logits = random_logits(3, 5001, 3, dtype).to(device)
    allowed = np.zeros((2, 4992), bool)
    allowed[0, [3, 31, 32, 4991]] = True
    allowed[1, 64:96] = True
    words = torch.from_numpy(np.packbits(allowed, axis=1, bitorder="little").view(np.int32)).to(device)
    before = logits.clone()
    allow_tokens(logits, torch.tensor([2, 0], device=device), words)
    for row, wanted in ((2, allowed[0]), (0, allowed[1])):
        kept = (logits[row] > float("-inf")).cpu().numpy()
        assert np.flatnonzero(kept).tolist() == np.flatnonzero(wanted).tolist()
        assert torch.equal(logits[row][kept], before[row][kept])
    assert torch.equal(logits[1], before[1])


def test_biases_and_penalties_are_those_of_one_row_alone(device):
    """Of any rows of a batch in one launch, also of tokens that have both, of many tokens and of none."""
    from tests.engine.sequences import sequence

    asked = [
        {"logit_bias": {3: 2.5, 4999: -7.0}},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.25, "logit_bias": {7: 4.0}},
        {"repetition_penalty": 0.8},
        {"min_tokens": 3, "presence_penalty": 1.0},
    ]
    rows = []
    for seed, params in enumerate(asked):
        made = sequence(tokens=12, ends=(11, 12), **params)
        for token in random.Random(seed).choices(range(5001), k=(0, 50, 3000, 9)[seed]):
            made.adjustments.append(token)
        rows.append(made)
    logits = random_logits(6, 5001, 9).to(device)
    expected, places = logits.clone(), [4, 0, 5, 2]
    for place, row in zip(places, rows, strict=True):
        apply_adjustments(expected[place], row)
    words = packed_adjustments([*zip(places, rows, strict=True)])
    last_tokens = torch.zeros(8, dtype=torch.int32, device=device)
    adjust_rows(logits, torch.from_numpy(words).to(device), last_tokens, len(rows))
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(expected, random_logits(6, 5001, 9).to(device))
    assert torch.equal(logits[[1, 3]], random_logits(6, 5001, 9).to(device)[[1, 3]])


PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.25}


@pytest.mark.parametrize("penalty", [*PENALTIES, None])
@pytest.mark.parametrize("pending", [5000, 17, 3, 40])
def test_a_token_that_the_step_before_samples_counts_for_penalties(penalty, pending, device):
    """Whether it is new, of the prompt alone, or in the answer, with a bias or without; as if the host had read it."""
    from tests.engine.sequences import sequence

    params = {"logit_bias": {5000: 2.0}} | ({} if penalty is None else {penalty: PENALTIES[penalty]})
    rows = [sequence(tokens=12, **params) for _ in range(2)]
    for row in rows:
        for token in (3, 3, *range(1000, 3000)):
            row.adjustments.append(token)
    read, launched = rows
    read.adjustments.append(pending)
    launched.pending, launched.slot = 1, 6
    logits = random_logits(2, 5001, 9)[:1].expand(2, -1).contiguous().to(device)
    apply_adjustments(logits[0], read)
    last_tokens = torch.full((8,), 4999, dtype=torch.int32, device=device)
    last_tokens[launched.slot] = pending
    words = torch.from_numpy(packed_adjustments([(1, launched)])).to(device)
    adjust_rows(logits, words, last_tokens, 1)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-6, atol=1e-6)


def test_log_probabilities_are_those_of_the_logits(device, dtype):
    """Of the chosen tokens, and of the most probable ones, best first."""
    logits = random_logits(3, 5001, 8, dtype).to(device)
    own = torch.log_softmax(logits.double(), dim=-1)
    tokens = torch.tensor([5, 0, 5000], dtype=torch.int32, device=device)
    chosen, best, ids = log_probabilities(logits, tokens, 4)
    torch.testing.assert_close(chosen.double(), own.gather(1, tokens.long()[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(best.double(), own.topk(4, dim=-1).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own.gather(1, ids), best.double(), rtol=1e-5, atol=1e-5)
    assert log_probabilities(logits[:, :3], tokens[:1].expand(3) * 0, 20)[1].shape == (3, 3)


def test_the_parameters_of_sequences_become_rows():
    """Greedy is temperature 0; other temperatures are at least the lowest that is finite."""
    from engine.model.cuda.batch import numbers_of
    from tests.engine.sequences import sequence  # needs packages of the service that a borrowed card may lack

    rows = [
        sequence(temperature=0.0),
        sequence(temperature=1e-9, seed=1),
        sequence(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, seed=2),
    ]
    found = parameters_of(rows)
    assert found.tolist() == [
        [0, 0, 1, 0, 0],
        [pytest.approx(1e-4), 0, 1, 0, 0],
        [0.5, 7, 0.25, 0.125, 0],
    ]
    for row in rows:
        row.pending = 1
    assert numbers_of(rows) == [0.0, *(pytest.approx(row.uniform(1)) for row in rows[1:])]
    assert [is_ranked(row) for row in rows] == [False, False, True]


def launch_real_shapes():
    """Launch every kernel on the logits that the engine has."""
    vocabulary = 151_936
    logits, ids = torch.zeros(2, vocabulary), torch.zeros(2, dtype=torch.int32)
    sampler = Sampler(2, vocabulary, torch.float32, torch.device("cpu"))
    for ranked in (True, False):
        sampler(logits, torch.zeros(2, 5), torch.zeros(2), ids, ids, ids, ids, ranked)
    allow_tokens(logits, ids, torch.zeros(2, vocabulary // 32, dtype=torch.int32))
    adjust_rows(logits, torch.zeros(HEAD.value + 2 * 3000, dtype=torch.int32), ids, 1)


def test_the_kernels_compile_for_each_card_without_spilling(tmp_path):
    """With registers for at least 16 warps on a multiprocessor."""
    for kernels in compiled_by("tests.engine.model.cuda.test_sampling:launch_real_shapes", tmp_path).values():
        assert len(kernels) == 8
        for kernel in kernels:
            assert kernel["spilled_bytes"] == 0, kernel
            assert kernel["registers"] <= 128, kernel
