"""The kernels that pass over the rows of a step, at the shapes of both models, against the bandwidth of a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.card.record import Options, Row, Rows
from benchmarks.card.timing import Work, per_call
from benchmarks.harness.bandwidth import copy_bandwidth
from engine.model.cuda.ends import embed_tokens, take_rows
from engine.model.cuda.rows import qk_norm_rope_store, rms_norm, rotary_tables, silu_and_mul

PAGE = 16
TOKENS = (1, 8, 64, 256, 512, 2048)


@dataclass(frozen=True, slots=True)
class Widths:
    """The heads and widths of a model."""

    model: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    qk_norm: bool


MODELS = (Widths("8B", 4096, 32, 8, 128, 12_288, True), Widths("7B", 3584, 28, 4, 128, 18_944, False))
TINY = (Widths("8B", 64, 8, 2, 16, 96, True), Widths("7B", 64, 7, 1, 16, 96, False))

# A kernel, its arguments, and the bytes that it reads and writes.
Kernel = tuple[Callable[..., object], tuple[object, ...], int]


def rows(options: Options) -> Rows:
    """Yield the time of each kernel; what a step has just written is in the cache of the card, as here."""
    bandwidth = copy_bandwidth(options.device)
    for model in TINY if options.tiny else MODELS:
        for count in TOKENS[: options.pick(len(TOKENS), 1)]:
            for name, (kernel, arguments, moved) in _kernels(model, count, options).items():
                calls: list[Work] = [partial(kernel, *arguments)] * options.pick(20, 1)
                seconds = per_call(calls, options.device, options.pick(5, 0) / 1e3)
                share = f"{moved / seconds / bandwidth:.0%}"
                found: Row = {"model": model.model, "kernel": name, "tokens": count}
                yield "rows", {**found, "us": seconds * 1e6, "of the bandwidth": share}


def _kernels(model: Widths, count: int, options: Options) -> dict[str, Kernel]:
    device, dtype = options.device, torch.float16 if options.device == "cuda" else torch.float32

    def new(width: int) -> Tensor:
        return torch.randn(count, width, device=device, dtype=dtype)

    x, both = new(model.hidden), new(2 * model.ffn)
    qkv = new((model.heads + 2 * model.kv_heads) * model.head_dim)
    half = torch.randn(count, model.head_dim // 2, device=device)
    weight = torch.ones(model.hidden, device=device, dtype=dtype)
    norm = weight[: model.head_dim] if model.qk_norm else None
    layer = torch.zeros(count // PAGE + 2, 2, model.kv_heads, PAGE, model.head_dim, device=device, dtype=dtype)
    slots = torch.arange(PAGE, PAGE + count, device=device, dtype=torch.int32)
    active, ids, positions = new(model.ffn), torch.zeros_like(slots), slots.repeat(3, 1)
    updates = torch.stack((ids, ids))
    axes = torch.arange(model.head_dim // 2, device=device) % 3
    table = torch.empty(2, count, model.head_dim // 2, device=device)
    tables = (positions, half[0], axes, 1.0, (table[0], table[1]))
    return {
        "rms_norm": (rms_norm, (x, weight, 1e-6, torch.empty_like(x)), 2 * x.nbytes),
        "qk_norm_rope_store": (qk_norm_rope_store, (qkv, norm, norm, 1e-6, half, half, layer, slots), 2 * qkv.nbytes),
        "silu_and_mul": (silu_and_mul, (both, active), both.nbytes + active.nbytes),
        "embed_tokens": (embed_tokens, (ids, ids, x, updates, updates, torch.empty_like(x)), 2 * x.nbytes),
        "take_rows": (take_rows, (x, x, ids), 4 * x.nbytes),
        "rotary_tables": (rotary_tables, tables, positions.nbytes + table.nbytes),
    }
