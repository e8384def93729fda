"""The sampler at both vocabularies: rows of one kind and of all kinds, against what torch needs for the same.

"text" are logits of a few probable tokens and a long tail, as a model's; "flat" are normal with a deviation of 3, where
top_p keeps ten thousand tokens, which no list of candidates is too short for; "one value" are equal logits, the worst
case: every bisection reads the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.card.record import Options, Row, Rows
from benchmarks.card.timing import Work, per_call

VOCABULARIES = {"8B": 151_936, "7B": 152_064}
ROWS = (1, 8, 64, 128)
# temperature, top_k, top_p, min_p, whether a grammar holds
KINDS = {
    "greedy": (0.0, 0.0, 1.0, 0.0, 0.0),
    "temperature": (0.8, 0.0, 1.0, 0.0, 0.0),
    "top_p": (0.8, 0.0, 0.9, 0.0, 0.0),
    "top_k, top_p": (0.7, 20.0, 0.8, 0.0, 0.0),
    "min_p": (0.8, 0.0, 1.0, 0.05, 0.0),
}
COPIES = 8  # of the logits, more than the L2 cache holds at 64 rows


def sampling(options: Options) -> Rows:
    """Yield the time of one step of sampling."""
    vocabularies = {"8B": 500} if options.tiny else VOCABULARIES
    for model, vocabulary in vocabularies.items():
        for count in ROWS[: options.pick(len(ROWS), 1)]:
            for shape in ("text", "flat", "one value"):
                logits = [_logits(shape, count, vocabulary, options) for _ in range(options.pick(COPIES, 1))]
                yield from _measured(model, shape, logits, options)
                del logits


def _measured(model: str, shape: str, logits: list[Tensor], options: Options) -> Rows:
    from engine.model.cuda.sampling import Sampler  # not before Triton is told to interpret

    count, vocabulary = logits[0].shape
    sampler = Sampler(count, vocabulary, logits[0].dtype, logits[0].device)
    numbers = torch.rand(count, device=options.device)
    slots, tokens, finite, last = torch.arange(count, device=options.device).repeat(4, 1)
    every = [tuple(KINDS.values())[row % len(KINDS)] for row in range(count)]
    kinds = {name: [kind] * count for name, kind in KINDS.items()} | {"all kinds": every}
    for name, values in kinds.items():
        parameters = torch.tensor(values, device=options.device)
        ranked = name not in ("greedy", "temperature")
        calls: list[Work] = [
            partial(sampler, each, parameters, numbers, slots, tokens, finite, last, ranked) for each in logits
        ]
        seconds = per_call(calls, options.device, options.pick(5, 0) / 1e3)
        row: Row = {"model": model, "logits": shape, "rows": count, "kind": name, "us": seconds * 1e6}
        if name in TORCH and (model, shape) == ("8B", "text"):
            eager: list[Work] = [partial(TORCH[name], each, parameters, numbers) for each in logits]
            row["torch us"] = per_call(eager, options.device, options.pick(5, 0) / 1e3) * 1e6
        yield "sampling", row


def _logits(shape: str, rows: int, vocabulary: int, options: Options) -> Tensor:
    if shape == "one value":
        return torch.full((rows, vocabulary), 1.5, device=options.device)
    # In half precision, as the product that gives the logits, which the engine then keeps in float32.
    noise = torch.randn(rows, vocabulary, device=options.device)
    if shape == "flat":
        return (noise * 3).half().float()
    order = torch.rand(rows, vocabulary, device=options.device).argsort(dim=-1)
    return (20 - 1.7 * (1 + order.float()).log() + noise).half().float()


def _torch_greedy(logits: Tensor, parameters: Tensor, numbers: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


def _torch_plain(logits: Tensor, parameters: Tensor, numbers: Tensor) -> Tensor:
    sums = torch.softmax(logits / parameters[:, :1], dim=-1).cumsum(dim=-1)
    return torch.searchsorted(sums, numbers[:, None] * sums[:, -1:])


def _torch_ranked(logits: Tensor, parameters: Tensor, numbers: Tensor) -> Tensor:
    """Rank the vocabulary, as engine/model/sampler.py does for rows without a top_k."""
    values, tokens = torch.softmax(logits / parameters[:, :1], dim=-1).topk(logits.shape[1], dim=-1)
    values = values.masked_fill(values.cumsum(dim=-1) - values >= parameters[:, 2:3], 0.0)
    sums = values.cumsum(dim=-1)
    drawn = torch.searchsorted(sums, numbers[:, None] * sums[:, -1:])
    return tokens.gather(1, drawn.clamp_(max=logits.shape[1] - 1))


TORCH: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "greedy": _torch_greedy,
    "temperature": _torch_plain,
    "top_p": _torch_ranked,
}
