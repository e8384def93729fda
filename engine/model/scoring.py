"""Log probabilities of tokens from logits, in parts of a bounded size: a row of logits is as long as the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from engine.model.choice import Choice

PART_BYTES = 16 * 2**20  # of logits in float32 at once; log probabilities take as much again


def log_probabilities(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log probabilities of the tokens [m], and the `count` largest with their ids, [m, count] each.

    logits: [m, V], before bias, penalties and grammar; tokens: int32 or int64 [m].
    """
    values = logits.float()
    norm = values.logsumexp(dim=-1)
    best = values.topk(min(count, values.shape[-1]), dim=-1)
    chosen = values.gather(1, tokens.long()[:, None])[:, 0] - norm
    return chosen, best.values - norm[:, None], best.indices


def log_probabilities_in_parts(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return what `log_probabilities` does, with memory for a part of the rows at a time."""
    rows, vocabulary = logits.shape
    size = part_rows(vocabulary, rows)
    some = [log_probabilities(logits[part], tokens[part], count) for part in parts(rows, size)]
    return some[0] if len(some) == 1 else tuple(map(torch.cat, zip(*some, strict=True)))


def part_rows(vocabulary: int, most: int, on_card: bool = False) -> int:
    """Return how many rows have logits at once: those of PART_BYTES, on a card half of `most` if that is more.

    most: rows for whose logits there is memory since they may sample in one step. Each part reads the whole head, in
    which a card spends the time of few rows. There it takes the place of the copy of all rows' logits that the sampler
    makes afterwards.
    """
    rows = max(1, min(most, PART_BYTES // (4 * vocabulary)))
    return max(rows, most // 2) if on_card else rows


def parts(rows: int, size: int) -> Iterator[slice]:
    """Yield slices of so many rows, each of at most `size`."""
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def choices_of(targets: Iterable[int], scores: tuple[Tensor, Tensor, Tensor]) -> Iterator[Choice]:
    """Yield each target with its log probability and alternatives, from what `log_probabilities` returns."""
    for target, chosen, values, ids in zip(targets, *(part.tolist() for part in scores), strict=True):
        yield Choice(target, True, chosen, tuple(zip(ids, values, strict=True)))
