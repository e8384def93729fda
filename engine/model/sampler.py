"""Samples the next token of each row from its logits.

A row's token depends on its logits, its parameters and one uniform number from the request's own seeded generator
(inverse transform sampling), so the other rows of the batch do not affect it. The steps are, in order: bias and
penalties, temperature, top_k, top_p, min_p. Log probabilities are those of the model, before all of these.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from engine.model.choice import Choice
from engine.model.kernel_sampler import sample_with_kernels
from engine.model.kernels.library import Kernels
from engine.schedule.sequence import BELOW_ONE, LOWEST_TEMPERATURE, Sequence


def sample(logits: Tensor, sequences: list[Sequence], kernels: Kernels | None = None) -> list[Choice]:
    """Sample one token per row. logits: float32 [n, vocabulary], changed in place; sequences: n, in the same order.

    kernels: used on the CPU. Raises ValueError if the grammar of a row allows no token.
    """
    if kernels is not None:
        return sample_with_kernels(logits, sequences, kernels)
    finite = logits.sum(dim=-1).isfinite()
    rows = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
    logprobs = torch.log_softmax(logits[_index(rows, logits)], dim=-1) if rows else None
    for row, sequence in enumerate(sequences):
        if sequence.adjusts_logits:
            _adjust(logits[row], sequence)
    tokens = _choose(logits, sequences)
    choices = [Choice(token, ok) for token, ok in zip(tokens.tolist(), finite.tolist(), strict=True)]
    if logprobs is not None:
        counts = [sequences[row].sampling.logprobs or 0 for row in rows]
        _add_logprobs(choices, logprobs, rows, counts)
    return choices


def _choose(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Return the tokens [n]: the most probable for greedy rows, drawn for the others."""
    plain, ranked, greedy = list[int](), list[int](), False
    for row, sequence in enumerate(sequences):
        params = sequence.sampling
        if params.temperature <= 0:
            greedy = True
        elif params.top_k or params.top_p < 1 or params.min_p:
            ranked.append(row)
        else:
            plain.append(row)
    tokens = logits.argmax(dim=-1) if greedy else logits.new_zeros(len(sequences), dtype=torch.long)
    for rows, draw in ((plain, _draw_plain), (ranked, _draw_ranked)):
        if rows and len(rows) == len(sequences):
            return draw(logits, sequences)
        if rows:
            index = _index(rows, tokens)
            tokens.index_copy_(0, index, draw(logits[index], [sequences[row] for row in rows]))
    return tokens


def _draw_plain(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Draw from all tokens."""
    return _invert(_probabilities(logits, sequences), sequences)


def _temperatures(like: Tensor, sequences: list[Sequence]) -> Tensor:
    return _column([max(LOWEST_TEMPERATURE, sequence.sampling.temperature) for sequence in sequences], like)


def _numbers(like: Tensor, sequences: list[Sequence]) -> Tensor:
    return _column([min(sequence.uniform(), BELOW_ONE) for sequence in sequences], like)


def _probabilities(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    return torch.softmax(logits.div_(_temperatures(logits, sequences)), dim=-1)


def _draw_ranked(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """Draw from the most probable tokens; if every row has a `top_k`, only the largest of those is ranked."""
    probabilities, vocabulary = _probabilities(logits, sequences), logits.shape[-1]
    limits = [min(sequence.sampling.top_k or vocabulary, vocabulary) for sequence in sequences]
    values, tokens = probabilities.topk(max(limits), dim=-1)
    ranks = torch.arange(values.shape[-1], device=values.device)
    values = values.masked_fill(ranks >= _column(limits, ranks), 0.0)
    values = values / values.sum(dim=-1, keepdim=True)
    before = values.cumsum(dim=-1) - values
    outside = (before >= _column([s.sampling.top_p for s in sequences], values)) & (ranks > 0)
    unlikely = values < values[:, :1] * _column([s.sampling.min_p for s in sequences], values)
    values = values.masked_fill(outside | unlikely, 0.0)
    drawn = _invert(values, sequences)
    return tokens.gather(1, drawn[:, None])[:, 0]


def _invert(weights: Tensor, sequences: list[Sequence]) -> Tensor:
    """Return [n]: the first index in each row whose cumulative weight exceeds the row's number times the total."""
    sums = weights.cumsum(dim=-1)
    indices = torch.searchsorted(sums, _numbers(sums, sequences) * sums[:, -1:], right=True)[:, 0]
    return indices.clamp_(max=weights.shape[-1] - 1)


def _adjust(logits: Tensor, sequence: Sequence) -> None:
    """Apply bias, penalties and grammar of a sequence to its logits [vocabulary], in place."""
    apply_adjustments(logits, sequence)
    mask = sequence.sampling.token_mask
    if mask is not None:
        logits.masked_fill_(~_allowed(mask.bitmask(), logits), -torch.inf)


def apply_adjustments(logits: Tensor, sequence: Sequence) -> None:
    """Apply bias and penalties of a sequence to its logits [vocabulary], in place."""
    params, adjustments = sequence.sampling, sequence.adjustments
    if adjustments is None:
        return
    bias_ids, biases = sequence.biases
    if bias_ids:
        logits[_index(bias_ids, logits)] += _column(biases, logits)[:, 0]
    if not adjustments.token_ids:
        return
    ids, counts = _index(adjustments.token_ids, logits), _column(adjustments.counts, logits)[:, 0]
    seen, repetition = logits[ids], params.repetition_penalty
    seen = torch.where(seen < 0, seen * repetition, seen / repetition)
    penalties = params.frequency_penalty * counts + params.presence_penalty
    logits[ids] = seen - torch.where(counts > 0, penalties, 0.0)


def _allowed(words: np.ndarray, logits: Tensor) -> Tensor:
    """Return bool [vocabulary] from a bitmask of int32 words; tokens beyond its end are not allowed."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    allowed = np.zeros(logits.shape[0], dtype=bool)
    size = min(len(bits), len(allowed))
    allowed[:size] = bits[:size]
    if not allowed.any():
        raise ValueError("the grammar allows no token")
    return torch.from_numpy(allowed).to(logits.device)


def _add_logprobs(choices: list[Choice], logprobs: Tensor, rows: list[int], counts: list[int]) -> None:
    """Add the log probabilities [m, vocabulary] of `rows` to their choices, and `counts` alternatives to each."""
    best = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    values = zip(logprobs, best.indices.tolist(), best.values.tolist(), strict=True)
    for row, count, (own, ids, tops) in zip(rows, counts, values, strict=True):
        token, finite = choices[row][:2]
        choices[row] = Choice(token, finite, float(own[token]), tuple(zip(ids[:count], tops[:count], strict=True)))


def _index(rows: abc.Sequence[int], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(rows, dtype=np.int64)), like.device)


def _column(values: abc.Sequence[float], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(values, dtype=np.float32)), like.device)[:, None]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small host tensor on the device, without synchronizing with it."""
    if device.type == "cuda":  # pragma: no cover - CUDA
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
