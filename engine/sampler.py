"""From logits to the next token of each row: every row by its own parameters and its own number.

A row's choice depends on its logits, its parameters and one uniform number from the request's own seeded generator
(inverse transform sampling), so who shares the batch does not matter. The order of the steps is bias and penalties,
temperature, top_k, top_p, min_p. Log probabilities are the model's own, before any of them.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.sequence import Sequence

# The largest float32 step below one: a uniform number must not round up to it.
BELOW_ONE = 1.0 - 2.0**-23


@dataclass(frozen=True, slots=True)
class Choice:
    """One row's outcome. finite: False where a logit was not a number or infinite; the token means nothing then.

    top: the likeliest tokens with their log probabilities, best first, for a request that asked for them.
    """

    token_id: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, sequences: Rows[Sequence]) -> list[Choice]:
    """Choose one token a row. logits: float32 [n, vocabulary], changed in place; sequences: n, in the same order."""
    finite = logits.sum(dim=-1).isfinite().tolist()
    logprobs = _wanted_logprobs(logits, sequences)
    for row, sequence in enumerate(sequences):
        if finite[row]:
            _adjust(logits[row], sequence)
    tokens = _choose(logits, sequences)
    return [_outcome(row, tokens[row], finite[row], logprobs) for row in range(len(sequences))]


def _choose(logits: Tensor, sequences: Rows[Sequence]) -> list[int]:
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    plain, ranked = list[int](), list[int]()
    for row, sequence in enumerate(sequences):
        params = sequence.sampling
        if params.temperature > 0:
            (ranked if params.top_k or params.top_p < 1 or params.min_p else plain).append(row)
    for rows, draw in ((plain, _draw_plain), (ranked, _draw_ranked)):
        if rows:
            chosen = draw(_probabilities(logits, rows, sequences), [sequences[row] for row in rows])
            for row, token in zip(rows, chosen, strict=True):
                tokens[row] = token
    return tokens


def _probabilities(logits: Tensor, rows: list[int], sequences: Rows[Sequence]) -> Tensor:
    if len(rows) < len(sequences):
        logits = logits[torch.tensor(rows, device=logits.device)]
    temperatures = [sequences[row].sampling.temperature for row in rows]
    return torch.softmax(logits / _column(temperatures, logits), dim=-1)


def _draw_plain(probabilities: Tensor, sequences: list[Sequence]) -> list[int]:
    return _invert(probabilities, sequences).tolist()


def _draw_ranked(probabilities: Tensor, sequences: list[Sequence]) -> list[int]:
    """Draw among the likeliest tokens alone; no row needs more of them than its `top_k`, where all have one."""
    vocabulary = probabilities.shape[-1]
    limits = [min(sequence.sampling.top_k or vocabulary, vocabulary) for sequence in sequences]
    values, tokens = probabilities.topk(max(limits), dim=-1)
    ranks = torch.arange(values.shape[-1], device=values.device)
    values = values.masked_fill(ranks >= _column(limits, ranks), 0.0)
    values = values / values.sum(dim=-1, keepdim=True)
    before = values.cumsum(dim=-1) - values
    outside = (before >= _column([s.sampling.top_p for s in sequences], values)) & (ranks > 0)
    weak = values < values[:, :1] * _column([s.sampling.min_p for s in sequences], values)
    values = values.masked_fill(outside | weak, 0.0)
    places = _invert(values, sequences)
    return tokens.gather(1, places[:, None])[:, 0].tolist()


def _invert(weights: Tensor, sequences: list[Sequence]) -> Tensor:
    """Return [n], in each row the first index at which the running sum of weights passes the row's number."""
    sums = weights.cumsum(dim=-1)
    numbers = _column([min(sequence.uniform(), BELOW_ONE) for sequence in sequences], sums)
    places = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)[:, 0]
    return places.clamp_(max=weights.shape[-1] - 1)


def _adjust(logits: Tensor, sequence: Sequence) -> None:
    """Apply a row's bias, penalties and grammar to its logits [vocabulary], in place."""
    params = sequence.sampling
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device)
    if params.repetition_penalty != 1.0:
        ids = torch.tensor(sorted(set(sequence.token_ids)), device=logits.device)
        seen = logits[ids]
        logits[ids] = torch.where(seen < 0, seen * params.repetition_penalty, seen / params.repetition_penalty)
    if sequence.output_counts:
        ids = torch.tensor(list(sequence.output_counts), device=logits.device)
        counts = torch.tensor(list(sequence.output_counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
    if params.token_mask is not None:
        logits.masked_fill_(~_allowed(params.token_mask.bitmask(), logits), -torch.inf)


def _allowed(words: np.ndarray, logits: Tensor) -> Tensor:
    """Return bool [vocabulary] from packed int32 words; tokens beyond the words are not allowed."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    allowed = np.zeros(logits.shape[0], dtype=bool)
    size = min(len(bits), len(allowed))
    allowed[:size] = bits[:size]
    return torch.from_numpy(allowed).to(logits.device)


@dataclass(frozen=True, slots=True)
class _Logprobs:
    """Log probabilities of the rows that asked: by row, the values [vocabulary] and how many alternatives."""

    values: dict[int, Tensor]
    counts: dict[int, int]


def _wanted_logprobs(logits: Tensor, sequences: Rows[Sequence]) -> _Logprobs:
    counts = {row: s.sampling.logprobs for row, s in enumerate(sequences) if s.sampling.logprobs is not None}
    return _Logprobs({row: torch.log_softmax(logits[row], dim=-1) for row in counts}, counts)


def _outcome(row: int, token_id: int, finite: bool, logprobs: _Logprobs) -> Choice:
    if row not in logprobs.values:
        return Choice(token_id, finite)
    values = logprobs.values[row]
    best = values.topk(min(logprobs.counts[row], values.shape[0])) if logprobs.counts[row] else None
    top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token_id, finite, float(values[token_id]), top)


def _column(values: Rows[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)[:, None]
