"""The sampler against the logits warpers of transformers and NumPy: each parameter, each row by itself."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.model.sampler import sample
from tests.engine.sequences import sequence

VOCABULARY = 26


def row(prompt=4, output=(), **params):
    """Return a sequence that has some output already."""
    made = sequence(tokens=prompt, **({"temperature": 1.0} | params))
    for token in output:
        made.append(token)
    return made


@pytest.fixture
def choose(maybe_kernels):
    """Sample a token for each row, by torch alone and with the kernels."""
    return lambda logits, rows: sample(logits.clone(), rows, kernels=maybe_kernels)


def random_logits(rows, seed):
    """Return logits with a spread like a model's."""
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def adjusted(logits, made):
    """Bias, then penalties, in double precision."""
    params, values = made.sampling, logits.double()[None].clone()
    for token, bias in params.logit_bias.items():
        values[0, token] += bias
    if params.repetition_penalty != 1.0:
        values = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(torch.tensor([made.token_ids]), values)
    for token, count in Counter(made.token_ids[made.num_prompt :]).items():
        values[0, token] -= params.frequency_penalty * count + params.presence_penalty
    return values


def distribution(logits, made):
    """Return the probabilities [vocabulary] that a row is drawn from, by the warpers of transformers."""
    params, values = made.sampling, adjusted(logits, made)
    values = TemperatureLogitsWarper(params.temperature)(None, values)
    if params.top_k:
        values = TopKLogitsWarper(params.top_k)(None, values)
    if params.top_p < 1:
        values = TopPLogitsWarper(params.top_p)(None, values)
    if params.min_p:
        values = MinPLogitsWarper(params.min_p)(None, values)
    return torch.softmax(values, dim=-1)[0].numpy()


def drawn(probabilities, number, ranked):
    """Return the token by inverse transform sampling, None if the number is too close to a boundary to tell."""
    order = np.argsort(-probabilities, kind="stable") if ranked else np.arange(len(probabilities))
    sums = np.cumsum(probabilities[order])
    if np.abs(sums - number).min() < 1e-5:
        return None
    return int(order[np.searchsorted(sums, number, side="right")])


def random_params(rng):
    """Return a random subset of the sampling parameters."""
    choices = {
        "temperature": (0.3, 0.7, 1.0, 1.9),
        "top_k": (0, 1, 3, 10, 500),
        "top_p": (1.0, 0.0, 0.4, 0.9),
        "min_p": (0.0, 0.05, 0.5, 1.0),
        "repetition_penalty": (1.0, 1.3, 0.8),
        "presence_penalty": (0.0, 0.7, -1.0),
        "frequency_penalty": (0.0, 0.4),
    }
    params = {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.6}
    if rng.random() < 0.4:
        params["logit_bias"] = {rng.randrange(VOCABULARY): rng.uniform(-5, 5) for _ in range(2)}
    return params | {"seed": rng.randrange(10**6)}


@pytest.mark.seeds(12, 30)
def test_every_parameter_does_what_transformers_does(seed, choose):
    """In batches of rows with different parameters each gets the token of its own number and distribution."""
    rng = random.Random(seed)
    rows = [row(output=rng.choices(range(VOCABULARY), k=5), **random_params(rng)) for _ in range(12)]
    logits = random_logits(12, seed)
    checked = 0
    for made, values, choice in zip(rows, logits, choose(logits, rows), strict=True):
        params = made.sampling
        ranked = bool(params.top_k or params.top_p < 1 or params.min_p)
        expected = drawn(distribution(values, made), made.uniform(), ranked)
        assert expected in (choice.token_id, None)
        assert choice.finite
        checked += expected is not None
    assert checked >= 11


def test_temperature_zero_takes_the_most_probable_token_after_penalties(choose):
    """Bias and penalties apply to greedy rows too, in a batch with sampled rows."""
    logits = random_logits(4, 1)
    rows = [
        row(temperature=0.0),
        row(temperature=0.0, logit_bias={5: 100.0}),
        row(temperature=0.0, output=[3, 3], frequency_penalty=2.0, repetition_penalty=1.5),
        row(temperature=0.9, seed=3),
    ]
    choices = choose(logits, rows)
    for made, values, choice in zip(rows[:3], logits, choices, strict=False):
        assert choice.token_id == int(adjusted(values, made).argmax())
    assert choices[1].token_id == 5


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature, choose):
    """Nothing overflows: the most probable token is drawn."""
    logits = random_logits(3, 2)
    rows = [row(temperature=temperature, seed=1), row(temperature=temperature, top_p=0.9), row(temperature=temperature)]
    assert [choice.token_id for choice in choose(logits, rows)] == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 8, "top_p": 0.7}]
)
@pytest.mark.slow
def test_answers_are_distributed_as_they_should_be(params, choose):
    """Over thousands of seeds each token comes as often as its probability says (chi-squared, p about 0.001)."""
    draws, logits = 4000, random_logits(1, 5)
    rows = [row(seed=seed, **params) for seed in range(draws)]
    counts = Counter(choice.token_id for choice in choose(logits.expand(draws, -1), rows))
    expected = distribution(logits[0], rows[0]) * draws
    assert all(expected[token] > 0 for token in counts)
    likely = [token for token in range(VOCABULARY) if expected[token] >= 5]
    statistic = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in likely)
    freedom = max(1, len(likely) - 1)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 4


def test_a_row_does_not_depend_on_its_neighbours(choose):
    """Alone or among rows of every kind, the same seed gives the same token and the same log probabilities."""
    rng = random.Random(0)
    for case in range(100):
        params = random_params(rng)
        logits = random_logits(6, case)
        alone = choose(logits[:1], [row(logprobs=2, **params)])[0]
        others = [row(logprobs=rng.choice((None, 0, 5)), **random_params(rng)) for _ in range(5)]
        index = rng.randrange(6)
        rows = [*others[:index], row(logprobs=2, **params), *others[index:]]
        together = choose(torch.cat([logits[1 : index + 1], logits[:1], logits[index + 1 :]]), rows)[index]
        assert together.token_id == alone.token_id
        assert together.logprob == pytest.approx(alone.logprob, abs=1e-6)
        assert [token for token, _ in together.top] == [token for token, _ in alone.top]


def test_log_probabilities_are_the_models_own(choose):
    """Before bias, penalties and temperature; with the requested number of alternatives, best first."""
    logits = random_logits(4, 9)
    rows = [
        row(logprobs=3, temperature=0.2, logit_bias={4: 50.0}),
        row(logprobs=0),
        row(),
        row(logprobs=100, temperature=0.0),
    ]
    choices = choose(logits, rows)
    own = torch.log_softmax(logits, dim=-1)
    assert choices[0].token_id == 4
    assert choices[0].logprob == pytest.approx(float(own[0, 4]), abs=1e-5)
    best = own[0].topk(3)
    assert [token for token, _ in choices[0].top] == best.indices.tolist()
    assert [value for _, value in choices[0].top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert (choices[1].top, choices[2].logprob, choices[2].top) == ((), None, ())
    assert len(choices[3].top) == VOCABULARY
    assert choices[3].top[0][0] == choices[3].token_id


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_reported_and_the_others_are_drawn(value, choose):
    """One bad logit affects its own row only."""
    logits = random_logits(3, 4)
    rows = [row(seed=1), row(seed=2, top_p=0.5), row(temperature=0.0)]
    healthy = [choice.token_id for choice in choose(logits, rows)]
    logits[1, 7] = value
    choices = choose(logits, rows)
    assert [choice.finite for choice in choices] == [True, False, True]
    assert (choices[0].token_id, choices[2].token_id) == (healthy[0], healthy[2])


class Allowing:
    """A grammar that allows a fixed set of tokens."""

    ready = quick = True
    step_seconds = usual_seconds = spent = 0.0

    def __init__(self, *tokens, words=1):
        bits = np.zeros(words, dtype=np.uint32)
        for token in tokens:
            bits[token // 32] |= np.uint32(1 << token % 32)
        self.words = bits.view(np.int32)

    def bitmask(self):
        return self.words


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 20, "logit_bias": {0: 90.0}}])
def test_a_grammar_allows_only_its_tokens_and_constrains_only_its_row(params, choose):
    """With any other parameters; other rows are unconstrained; bits beyond the vocabulary are ignored."""
    logits = random_logits(2, 8)
    for seed in range(40):
        masked = row(token_mask=Allowing(3, 17, words=1 + seed % 2), seed=seed, **params)
        free = row(logit_bias={25: 200.0})
        choices = choose(logits, [masked, free])
        assert choices[0].token_id in (3, 17)
        assert choices[1].token_id == 25


def test_a_grammar_that_allows_nothing_is_an_error(choose):
    """It raises, so that the engine fails this sequence, instead of drawing from an empty set."""
    with pytest.raises(ValueError, match="allows no token"):
        choose(random_logits(1, 0), [row(token_mask=Allowing())])
