"""Samples the next token of each row from its logits.

A row's token depends on its logits, its parameters and one uniform number from the request's own seeded generator
(inverse transform sampling), so the other rows of the batch do not affect it. The steps are, in order: bias and
penalties, temperature, top_k, top_p, min_p. Log probabilities are those of the model, before all of these.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from engine.model.choice import Choice
from engine.model.kernels.library import Kernels
from engine.schedule.sequence import BELOW_ONE, Sequence

# The lower limit of temperatures: greedy in effect, and logits divided by it are still finite.
LOWEST_TEMPERATURE = 1e-4


class Sampled:
    """The sampled tokens of a step, copied to the host asynchronously.

    `collect` waits for the copy and for nothing launched after it. tokens: [n] on the device, where the next step can
    read them before they reach the host.
    """

    def __init__(self, tokens: Tensor, finite: Tensor, logprobs: _Logprobs | None) -> None:
        self.tokens = tokens
        self._logprobs = logprobs
        parts = [torch.stack((tokens, finite.long()))]
        if logprobs is not None:
            parts += [logprobs.chosen, logprobs.best, logprobs.best_tokens]
        self._parts = [part.to("cpu", non_blocking=True) for part in parts]
        self._arrived: torch.cuda.Event | None = None
        if tokens.is_cuda:  # pragma: no cover - CUDA
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def collect(self) -> list[Choice]:
        """Wait for the copy and return one choice per row."""
        if self._arrived is not None:  # pragma: no cover - CUDA
            self._arrived.synchronize()
        tokens, finite = self._parts[0].tolist()
        choices = [Choice(token, ok == 1) for token, ok in zip(tokens, finite, strict=True)]
        if self._logprobs is not None:
            requested = zip(self._logprobs.rows, self._logprobs.counts, strict=True)
            values = zip(*(part.tolist() for part in self._parts[1:]), strict=True)
            for (row, count), (chosen, best, best_tokens) in zip(requested, values, strict=True):
                top = tuple(zip(best_tokens[:count], best[:count], strict=True))
                choices[row] = Choice(tokens[row], bool(finite[row]), chosen, top)
        return choices


@dataclass(frozen=True, slots=True)
class _Logprobs:
    """Log probabilities of the m rows that request them.

    chosen: of the sampled tokens, [m]; best, best_tokens: the k most probable tokens, [m, k]; counts: how many of those
    k each row requests.
    """

    rows: list[int]
    counts: list[int]
    chosen: Tensor
    best: Tensor
    best_tokens: Tensor


def sample(logits: Tensor, sequences: list[Sequence], kernels: Kernels | None = None) -> Sampled:
    """Sample one token per row. logits: float32 [n, vocabulary], changed in place; sequences: n, in the same order.

    kernels: used for drawing on the CPU.
    """
    finite = logits.sum(dim=-1).isfinite()
    rows = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
    logprobs = torch.log_softmax(logits[_index(rows, logits)], dim=-1) if rows else None
    for row, sequence in enumerate(sequences):
        if sequence.adjusts_logits:
            _adjust(logits[row], sequence)
    tokens = _choose(logits, sequences, kernels)
    counts = [sequences[row].sampling.logprobs or 0 for row in rows]
    return Sampled(tokens, finite, None if logprobs is None else _pick_logprobs(logprobs, tokens, rows, counts))


def _choose(logits: Tensor, sequences: list[Sequence], kernels: Kernels | None) -> Tensor:
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
    for rows, draw in ((plain, partial(_draw_plain, kernels=kernels)), (ranked, _draw_ranked)):
        if rows and len(rows) == len(sequences):
            return draw(logits, sequences)
        if rows:
            index = _index(rows, tokens)
            tokens.index_copy_(0, index, draw(logits[index], [sequences[row] for row in rows]))
    return tokens


def _draw_plain(logits: Tensor, sequences: list[Sequence], kernels: Kernels | None) -> Tensor:
    """Draw from all tokens."""
    if kernels is None:
        return _invert(_probabilities(logits, sequences), sequences)
    return kernels.draw(logits, _temperatures(logits, sequences), _numbers(logits, sequences))


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
    apply_penalties(logits, sequence)
    mask = sequence.sampling.token_mask
    if mask is not None:
        logits.masked_fill_(~_allowed(mask.bitmask(), logits), -torch.inf)


def apply_penalties(logits: Tensor, sequence: Sequence) -> None:
    """Apply bias and penalties of a sequence to its logits [vocabulary], in place."""
    params = sequence.sampling
    if params.logit_bias:
        logits[_index(list(params.logit_bias), logits)] += _column(list(params.logit_bias.values()), logits)[:, 0]
    if params.repetition_penalty != 1.0:
        ids = _index(sorted(set(sequence.token_ids)), logits)
        seen = logits[ids]
        logits[ids] = torch.where(seen < 0, seen * params.repetition_penalty, seen / params.repetition_penalty)
    if sequence.output_counts:
        counts = _column(list(sequence.output_counts.values()), logits)[:, 0]
        penalties = params.frequency_penalty * counts + params.presence_penalty
        logits[_index(list(sequence.output_counts), logits)] -= penalties


def _allowed(words: np.ndarray, logits: Tensor) -> Tensor:
    """Return bool [vocabulary] from a bitmask of int32 words; tokens beyond its end are not allowed."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    allowed = np.zeros(logits.shape[0], dtype=bool)
    size = min(len(bits), len(allowed))
    allowed[:size] = bits[:size]
    if not allowed.any():
        raise ValueError("the grammar allows no token")
    return torch.from_numpy(allowed).to(logits.device)


def _pick_logprobs(logprobs: Tensor, tokens: Tensor, rows: list[int], counts: list[int]) -> _Logprobs:
    """Return the log probabilities requested by `rows`. logprobs: [m, vocabulary]; tokens: [n] of the whole step."""
    best = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    chosen = logprobs.gather(1, tokens[_index(rows, tokens)][:, None])[:, 0]
    return _Logprobs(rows, counts, chosen, best.values, best.indices)


def _index(rows: list[int], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(rows, dtype=np.int64)), like.device)


def _column(values: abc.Sequence[float], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(values, dtype=np.float32)), like.device)[:, None]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small host tensor on the device, without synchronizing with it."""
    if device.type == "cuda":  # pragma: no cover - CUDA
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
