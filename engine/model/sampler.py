"""From logits to the next token of each row: every row by its own parameters and its own number.

A row's choice depends on its logits, its parameters and one uniform number from the request's own seeded generator
(inverse transform sampling), so who shares the batch does not matter. The order of the steps is bias and penalties,
temperature, top_k, top_p, min_p. Log probabilities are the model's own, before any of them.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.library import Kernels
from engine.schedule.sequence import Sequence

# The largest float32 step below one: a uniform number must not round up to it.
BELOW_ONE = 1.0 - 2.0**-23
# A lower temperature is this one: it is greedy in effect, and logits divided by it are still finite.
LOWEST_TEMPERATURE = 1e-4


class Choice(NamedTuple):
    """One row's outcome. finite: False where a logit was not a number or infinite; the token means nothing then.

    top: the likeliest tokens with their log probabilities, best first, for a request that asked for them.
    """

    token_id: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampled:
    """The outcome of a step, on its way to the host; `collect` waits for it, and for nothing launched later.

    tokens: [n], on the device, where a next step may read them already.
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
        """Return one choice a row."""
        if self._arrived is not None:  # pragma: no cover - CUDA
            self._arrived.synchronize()
        tokens, finite = self._parts[0].tolist()
        choices = [Choice(token, ok == 1) for token, ok in zip(tokens, finite, strict=True)]
        if self._logprobs is not None:
            asked = zip(self._logprobs.rows, self._logprobs.counts, strict=True)
            values = zip(*(part.tolist() for part in self._parts[1:]), strict=True)
            for (row, count), (chosen, best, best_tokens) in zip(asked, values, strict=True):
                top = tuple(zip(best_tokens[:count], best[:count], strict=True))
                choices[row] = Choice(tokens[row], bool(finite[row]), chosen, top)
        return choices


@dataclass(frozen=True, slots=True)
class _Logprobs:
    """Log probabilities of the m rows that asked: the chosen token's [m], and the best [m, k] with their tokens, of
    which each row wants `counts`.
    """

    rows: list[int]
    counts: list[int]
    chosen: Tensor
    best: Tensor
    best_tokens: Tensor


def sample(logits: Tensor, sequences: Rows[Sequence], ahead: int = 0, kernels: Kernels | None = None) -> Sampled:
    """Choose one token a row. logits: float32 [n, vocabulary], changed in place; sequences: n, in the same order.

    ahead: how many tokens behind its next one each row is; only rows without `needs_its_tokens` may be any. kernels:
    what draws on the CPU, where the runner has them.
    """
    finite = logits.sum(dim=-1).isfinite()
    asking = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
    own = torch.log_softmax(logits[_index(asking, logits)], dim=-1) if asking else None
    for row, sequence in enumerate(sequences):
        if sequence.adjusts_logits:
            _adjust(logits[row], sequence)
    tokens = _choose(logits, sequences, ahead, kernels)
    counts = [sequences[row].sampling.logprobs or 0 for row in asking]
    return Sampled(tokens, finite, None if own is None else _pick_logprobs(own, tokens, asking, counts))


def _choose(logits: Tensor, sequences: Rows[Sequence], ahead: int, kernels: Kernels | None) -> Tensor:
    """Return the tokens [n]: the likeliest for greedy rows, drawn for the others."""
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
            return draw(logits, sequences, ahead)
        if rows:
            index = _index(rows, tokens)
            tokens.index_copy_(0, index, draw(logits[index], [sequences[row] for row in rows], ahead))
    return tokens


def _draw_plain(logits: Tensor, sequences: Rows[Sequence], ahead: int, kernels: Kernels | None) -> Tensor:
    """Draw among all tokens."""
    if kernels is None:
        return _invert(_probabilities(logits, sequences), sequences, ahead)
    return kernels.draw(logits, _temperatures(logits, sequences), _numbers(logits, sequences, ahead))


def _temperatures(like: Tensor, sequences: Rows[Sequence]) -> Tensor:
    return _column([max(LOWEST_TEMPERATURE, sequence.sampling.temperature) for sequence in sequences], like)


def _numbers(like: Tensor, sequences: Rows[Sequence], ahead: int) -> Tensor:
    return _column([min(sequence.uniform(ahead), BELOW_ONE) for sequence in sequences], like)


def _probabilities(logits: Tensor, sequences: Rows[Sequence]) -> Tensor:
    return torch.softmax(logits.div_(_temperatures(logits, sequences)), dim=-1)


def _draw_ranked(logits: Tensor, sequences: Rows[Sequence], ahead: int) -> Tensor:
    """Draw among the likeliest tokens alone; no row needs more of them than its `top_k`, where all have one."""
    probabilities, vocabulary = _probabilities(logits, sequences), logits.shape[-1]
    limits = [min(sequence.sampling.top_k or vocabulary, vocabulary) for sequence in sequences]
    values, tokens = probabilities.topk(max(limits), dim=-1)
    ranks = torch.arange(values.shape[-1], device=values.device)
    values = values.masked_fill(ranks >= _column(limits, ranks), 0.0)
    values = values / values.sum(dim=-1, keepdim=True)
    before = values.cumsum(dim=-1) - values
    outside = (before >= _column([s.sampling.top_p for s in sequences], values)) & (ranks > 0)
    weak = values < values[:, :1] * _column([s.sampling.min_p for s in sequences], values)
    values = values.masked_fill(outside | weak, 0.0)
    indices = _invert(values, sequences, ahead)
    return tokens.gather(1, indices[:, None])[:, 0]


def _invert(weights: Tensor, sequences: Rows[Sequence], ahead: int) -> Tensor:
    """Return [n], in each row the first index at which the running sum of weights passes the row's number."""
    sums = weights.cumsum(dim=-1)
    indices = torch.searchsorted(sums, _numbers(sums, sequences, ahead) * sums[:, -1:], right=True)[:, 0]
    return indices.clamp_(max=weights.shape[-1] - 1)


def _adjust(logits: Tensor, sequence: Sequence) -> None:
    """Apply a row's bias, penalties and grammar to its logits [vocabulary], in place."""
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
    if params.token_mask is not None:
        logits.masked_fill_(~_allowed(params.token_mask.bitmask(), logits), -torch.inf)


def _allowed(words: np.ndarray, logits: Tensor) -> Tensor:
    """Return bool [vocabulary] from packed int32 words; tokens beyond the words are not allowed."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    allowed = np.zeros(logits.shape[0], dtype=bool)
    size = min(len(bits), len(allowed))
    allowed[:size] = bits[:size]
    if not allowed.any():
        raise ValueError("the grammar allows no token")
    return torch.from_numpy(allowed).to(logits.device)


def _pick_logprobs(own: Tensor, tokens: Tensor, rows: list[int], counts: list[int]) -> _Logprobs:
    """Return what the asking rows want. own: [m, vocabulary] log probabilities; tokens: [n] of the whole step."""
    best = own.topk(min(max(counts), own.shape[-1]), dim=-1)
    chosen = own.gather(1, tokens[_index(rows, tokens)][:, None])[:, 0]
    return _Logprobs(rows, counts, chosen, best.values, best.indices)


def _index(rows: list[int], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(rows, dtype=np.int64)), like.device)


def _column(values: Rows[float], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.array(values, dtype=np.float32)), like.device)[:, None]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small host tensor on the device, without waiting for what the device is doing."""
    if device.type == "cuda":  # pragma: no cover - CUDA
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
