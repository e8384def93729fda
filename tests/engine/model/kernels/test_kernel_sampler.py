"""The sampling kernel against NumPy in double precision, with as many tokens as real vocabularies have."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engine.model.sampler import sample
from engine.schedule.sequence import BELOW_ONE
from tests.engine.model.test_sampler import Allowing, adjusted, random_params, row

pytestmark = pytest.mark.needs("cc")
QWEN = 151_936
# Around the size of a part, of what is listed at once, and real ones, with a last part that is not whole.
SIZES = (1, 17, 128, 129, 1000, 33_000, QWEN + 5)
ROUNDING = 2e-6  # of a sum, relative to all weights
WEIGHT_ROUNDING = 1e-5  # of one weight, relative to it


def flat(size, seed):
    """Return the logits of a model with random weights: every token counts."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 0.7


def peaked(size, seed):
    """Return the logits of a model that is nearly sure."""
    logits = flat(size, seed) * 4
    logits[seed % size] = 25.0
    return logits


def slanted(size, seed):
    """Return logits with a few thousand good tokens among many bad ones."""
    logits = flat(size, seed) * 3
    count = min(size, 3000)
    logits[torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]] += torch.linspace(14, 2, count)
    return logits


def tied(size, seed):
    """Return logits of few different values."""
    return (flat(size, seed) * 2).round()


SHAPES = (flat, peaked, slanted, tied)


def weights_of(logits, made):
    """Return the weights of all tokens in double precision, the largest 1."""
    values = adjusted(logits, made)[0].numpy()
    if made.sampling.token_mask is not None:
        bits = np.unpackbits(made.sampling.token_mask.bitmask().view(np.uint8), bitorder="little")[: len(values)]
        values = np.where(np.pad(bits, (0, len(values) - len(bits))) == 1, values, -np.inf)
    return np.exp((values - values.max()) / made.sampling.temperature)


def kept_between(weights, params):
    """Return the least and the largest sum of the weights that are kept, as far as rounding leaves it open."""
    ordered = np.sort(weights)[::-1][: params.top_k or None]
    sums, slack = np.cumsum(ordered), ROUNDING * weights.sum()
    part = params.top_p * sums[-1] if params.top_p < 1 else sums[-1]
    ends = np.searchsorted(sums, (part - slack, part + slack)).clip(max=len(sums) - 1)
    likely = [np.count_nonzero(ordered >= params.min_p * (1 + sign * WEIGHT_ROUNDING)) for sign in (1, -1)]
    return [sums[max(0, min(end, count - 1))] for end, count in zip(ends, likely, strict=True)]


def check(choice, logits, made):
    """Assert that a choice is that of the row's number, as far as rounding leaves it open."""
    weights, number = weights_of(logits, made), float(np.float32(min(made.uniform(), BELOW_ONE)))
    own, params, slack = weights[choice.token_id], made.sampling, ROUNDING * weights.sum()
    assert own > 0
    if not (params.top_k or params.top_p < 1 or params.min_p):
        through, target = weights[: choice.token_id + 1].sum(), number * weights.sum()
        assert through - own - slack <= target <= through + slack
        return
    heavier = weights[weights > own * (1 + WEIGHT_ROUNDING)]
    not_lighter = weights[weights >= own * (1 - WEIGHT_ROUNDING)]
    least, most = kept_between(weights, params)
    assert heavier.sum() - slack <= number * most
    assert not_lighter.sum() + slack >= number * least
    assert not params.top_k or len(heavier) < params.top_k
    assert own >= params.min_p * (1 - WEIGHT_ROUNDING)
    assert params.top_p == 1.0 or heavier.sum() < params.top_p * weights.sum() + slack or len(heavier) == 0


def many_params(rng, size):
    """Return a random subset of the sampling parameters, with those that only a large vocabulary tells apart."""
    params = random_params(rng) | {"temperature": rng.choice((0.3, 0.7, 1.0, 2.0)), "logit_bias": {}}
    if rng.random() < 0.4:
        params["top_k"] = rng.choice((1, 50, 300, 5000, size - 1, size, size + 1, 10**6))
    if rng.random() < 0.3:
        params["top_p"] = rng.choice((1e-9, 0.5, 0.95, 0.9999, 1 - 1e-7))
    if rng.random() < 0.3:
        params["min_p"] = rng.choice((1e-7, 1e-4, 0.01, 1.0))
    if rng.random() < 0.3:
        params["logit_bias"] = {rng.randrange(size): rng.uniform(-100, 100) for _ in range(30)}
    if rng.random() < 0.3:
        params["token_mask"] = Allowing(*(rng.randrange(size) for _ in range(500)), words=(size + 31) // 32)
    return params


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_token_is_that_of_its_number(size, shape, kernels):
    """For random parameters, in vocabularies of all sizes and logits of all shapes; the logits stay as they are."""
    rng = random.Random(size)
    output = [rng.randrange(size) for _ in range(5)]
    rows = [row(min(size, 4), output, **many_params(rng, size)) for _ in range(6)]
    logits = torch.stack([shape(size, seed) for seed in range(6)])
    before = logits.clone()
    for choice, values, made in zip(sample(logits, rows, kernels), before, rows, strict=True):
        assert choice.finite
        check(choice, values, made)
    assert torch.equal(logits, before)


def test_equal_logits_are_taken_in_the_order_of_their_ids(kernels):
    """What top_k and top_p keep is then a beginning of the vocabulary, and a number is a position in it."""
    logits = torch.full((1, QWEN), 3.0)
    for params, count in (
        ({"top_k": 7}, 7),
        ({"top_k": 70_000}, 70_000),
        ({"top_p": 0.25}, QWEN // 4),
        ({"top_p": 0.75}, QWEN // 4 * 3),
        ({"min_p": 1.0}, QWEN),
        ({"top_k": 4096, "top_p": 0.5, "min_p": 0.5}, 2048),
    ):
        for seed in range(3):
            made = row(temperature=1.0, seed=seed, **params)
            expected = int(np.float32(made.uniform()) * np.float64(count))
            assert sample(logits, [made], kernels)[0].token_id == expected


@pytest.mark.parametrize(
    "params", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 1e-6}, {"top_k": 100_000, "top_p": 0.999}]
)
@pytest.mark.parametrize("number", [0.0, 0.5, BELOW_ONE])
def test_a_token_that_is_not_allowed_is_never_drawn(number, params, kernels):
    """For any number, at either end of the vocabulary, and in spite of rounded sums; one allowed token is drawn."""
    logits = flat(QWEN, 4)[None]
    for allowed in (range(300, 700), [0], [QWEN - 1], range(QWEN - 40, QWEN)):
        made = row(token_mask=Allowing(*allowed, words=QWEN // 32), **params)
        made._uniforms.append(number)
        assert sample(logits, [made], kernels)[0].token_id in allowed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_probabilities_are_those_of_torch(shape, size, kernels):
    """Of the drawn token and of the best 20, whatever else the row asks for; equal ones in the order of their ids."""
    logits = torch.stack([shape(size, seed) for seed in range(5)])
    rows = [
        row(min(size, 4), logprobs=20),
        row(min(size, 4), logprobs=20, temperature=0.0),
        row(min(size, 4), logprobs=0, top_p=0.9),
        row(min(size, 4), logprobs=1, temperature=0.5, repetition_penalty=1.5, logit_bias={0: -5.0}),
        row(min(size, 4), logprobs=3, token_mask=Allowing(size - 1, words=(size + 31) // 32)),
    ]
    expected = torch.log_softmax(logits.double(), dim=-1)
    for choice, own, made in zip(sample(logits, rows, kernels), expected, rows, strict=True):
        best = np.argsort(-own.numpy(), kind="stable")[: made.sampling.logprobs].tolist()
        assert choice.logprob == pytest.approx(float(own[choice.token_id]), abs=1e-5)
        assert [token for token, _ in choice.top] == best
        assert [value for _, value in choice.top] == pytest.approx(own[best].tolist(), abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_greedy_row_takes_the_first_of_the_best_tokens(size, kernels):
    """After bias, penalties and grammar, as torch does; a temperature near zero is the same."""
    logits = torch.stack([tied(size, 1), tied(size, 2)])
    for made in (row(1, temperature=0.0), row(1, temperature=1e-9, top_k=5), row(1, temperature=1e-9)):
        found = sample(logits[:1], [made], kernels)[0].token_id
        assert logits[0, found] == logits[0].max()
        assert made.sampling.temperature or found == int((logits[0] == logits[0].max()).nonzero()[0])
    biased = row(1, temperature=0.0, logit_bias={size - 1: 100.0})
    assert sample(logits[1:], [biased], kernels)[0].token_id == size - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 127, 128, 33_000, QWEN - 1, QWEN, QWEN + 4])
def test_one_bad_logit_is_found_wherever_it_is(position, value, kernels):
    """In rows of every kind; a row without one is good, also where its logits are as large as they can be."""
    size = QWEN + 5
    kinds = (
        {},
        {"temperature": 0.0},
        {"top_p": 0.5},
        {"logprobs": 3},
        {"token_mask": Allowing(3, words=size // 32 + 1)},
    )
    logits = flat(size, 0).expand(len(kinds) + 1, -1).clone()
    logits[:-1, position] = value
    logits[-1] *= 1e37
    choices = sample(logits, [*(row(**params) for params in kinds), row(top_p=0.5, logprobs=1)], kernels)
    assert [choice.finite for choice in choices] == [False] * len(kinds) + [True]
    assert all(0 <= choice.token_id < size for choice in choices)


def test_a_row_is_the_same_in_every_batch_and_on_any_number_of_threads(kernels):
    """To the bit: token, log probabilities and alternatives."""
    rng = random.Random(5)
    logits = torch.stack([SHAPES[seed % 4](QWEN, seed) for seed in range(6)])
    params = [many_params(rng, QWEN) | {"logprobs": 5} for _ in range(6)]
    before, found = torch.get_num_threads(), []
    for threads, batches in ((1, [[each] for each in range(6)]), (1, [range(6)]), (2, [range(3), range(3, 6)])):
        torch.set_num_threads(threads)
        found.append([
            choice for batch in batches for choice in sample(logits[batch], [row(**params[i]) for i in batch], kernels)
        ])  # fmt: skip
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_tokens_beyond_the_vocabulary_are_passed_over(kernels):
    """The kernel writes nowhere else, whatever a bias or a prompt names."""
    for params in ({"logit_bias": {10: 5.0, 2**31 - 1: 5.0}}, {"repetition_penalty": 2.0}):
        made = row(20, output=[19], temperature=0.0, **params)
        assert sample(torch.arange(10.0)[None], [made], kernels)[0].token_id == 9


@pytest.mark.parametrize("size", [127, 129, 1280])
@pytest.mark.parametrize("params", [{}, {"min_p": 1e-6}])
def test_the_very_last_number_draws_no_token_without_weight(size, params, kernels):
    """The goal of rounded sums may lie beyond all weights: then the lightest is drawn that is there."""
    for seed in range(200):
        logits = flat(size, seed) * 4
        logits[0] = -40.0
        made = row(temperature=0.7, top_k=size if not params else 0, **params)
        made._uniforms.append(BELOW_ONE)
        (choice,) = sample(logits[None].clone(), [made], kernels=kernels)
        assert choice.token_id != 0
