"""The Triton kernels at the shapes of both models: their time, and the share of the bandwidth that they reach."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.card.record import Options, Rows
from benchmarks.card.timing import Work, per_call
from benchmarks.harness.bandwidth import copy_bandwidth
from engine.model.cuda.attention import META, Scratch, paged_attention
from engine.model.cuda.attention_plan import AttentionPlanner
from engine.model.cuda.rows import qk_norm_rope_store, rms_norm, silu_and_mul

PAGE = 16
CACHE_BYTES = 300_000_000  # of the layers that one graph reads in turn: more than the L2 cache holds
MOST_LAYERS = 36
TOKENS = (1, 8, 64, 256, 512, 2048)


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads and widths of a model."""

    model: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    qk_norm: bool

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token in one layer, in float16."""
        return 2 * self.kv_heads * self.head_dim * 2


MODELS = (Heads("8B", 4096, 32, 8, 128, 12_288, True), Heads("7B", 3584, 28, 4, 128, 18_944, False))
TINY = (Heads("8B", 64, 8, 2, 16, 96, True), Heads("7B", 64, 7, 1, 16, 96, False))
# (tokens, position of the first) of each sequence of a step.
Steps = dict[str, list[tuple[int, int]]]


def steps(tiny: bool) -> Steps:
    """Return the steps that attention is measured on."""
    rng = random.Random(0)
    if tiny:
        return {"2 rows": [(1, 20), (1, 33)], "2 rows and a chunk": [(1, 20), (1, 33), (9, 16)]}
    short = [(1, rng.randint(50, 550)) for _ in range(256)]
    return {
        "1 row of 300": [(1, 300)],
        "1 row of 4,000": [(1, 4000)],
        "8 rows of 50 to 550": short[:8],
        "64 rows of 50 to 550": short[:64],
        "63 rows and one of 2,100": [*short[:63], (1, 2100)],
        "63 rows and one of 16,000": [*short[:63], (1, 16_000)],
        "128 rows of 50 to 550": short[:128],
        "256 rows of 50 to 550": short,
        "prompt of 256": [(256, 0)],
        "prompt of 2,048": [(2048, 0)],
        "chunk of 256 after 2,048": [(256, 2048)],
        "64 rows and a chunk of 256": [*short[:64], (256, 0)],
        "64 rows and a chunk of 256 after 2,048": [*short[:64], (256, 2048)],
    }


def kernels(options: Options) -> Rows:
    """Yield the times of attention, then of the kernels for rows."""
    bandwidth = copy_bandwidth(options.device)
    for model in TINY if options.tiny else MODELS:
        for name, spans in steps(options.tiny).items():
            seconds = attention_seconds(model, spans, options)
            needed = sum(start + tokens for tokens, start in spans) * model.token_bytes
            products = 4 * sum(tokens * (start + tokens / 2) * model.heads * model.head_dim for tokens, start in spans)
            yield (
                "paged attention",
                {
                    "model": model.model,
                    "step": name,
                    "us": seconds * 1e6,
                    "of the bandwidth, for keys and values": f"{needed / seconds / bandwidth:.0%}",
                    "TFLOP/s": products / seconds / 1e12,
                },
            )
        yield from _rows(model, bandwidth, options)


def attention_seconds(
    model: Heads, spans: Sequence[tuple[int, int]], options: Options, meta: dict[str, Any] = META
) -> float:
    """Return the seconds of attention in one layer for a step, with its merge."""
    total = sum(tokens for tokens, _ in spans)
    lengths = [start + tokens for tokens, start in spans]
    counts = [-(-length // PAGE) for length in lengths]
    blocks = sum(counts)
    layers = options.pick(min(MOST_LAYERS, max(2, CACHE_BYTES // (blocks * PAGE * model.token_bytes))), 1)
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    shape = (layers, blocks + 1, 2, model.kv_heads, PAGE, model.head_dim)
    cache = torch.randn(shape, device=options.device, dtype=dtype)
    tables = torch.zeros(len(spans) + 1, max(counts), dtype=torch.int32)
    order = (torch.randperm(blocks) + 1).to(torch.int32)
    for row, own in enumerate(order.split(counts)):
        tables[row, : len(own)] = own
    items, merges, scratch = _plan(model, spans, total, options)
    qkv = torch.randn(total, model.heads + 2 * model.kv_heads, model.head_dim, device=options.device, dtype=dtype)
    out = torch.empty(total, model.heads * model.head_dim, device=options.device, dtype=dtype)
    q, tables = qkv[:, : model.heads], tables.to(options.device)
    calls: list[Work] = [
        partial(paged_attention, q, layer, tables, items, merges, scratch, out, None, meta) for layer in cache
    ]
    return per_call(calls, options.device, options.pick(10, 0) / 1e3)


def _plan(
    model: Heads, spans: Sequence[tuple[int, int]], total: int, options: Options
) -> tuple[Tensor, Tensor, Scratch]:
    multiprocessors = 132
    if options.device == "cuda":
        multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    planner = AttentionPlanner(model.heads, model.kv_heads, multiprocessors, max(256, len(spans)))
    tokens, starts = np.array(spans, dtype=np.int32).T
    items = np.zeros((planner.max_items(total), 8), dtype=np.int32)
    merges = np.zeros((planner.max_merges(total), 4), dtype=np.int32)
    first = np.cumsum(tokens, dtype=np.int32) - tokens
    planner.plan(first, tokens, np.arange(len(spans), dtype=np.int32), starts, items, merges)
    device = torch.device(options.device)
    scratch = Scratch.empty(planner.max_partials(total), model.heads, model.head_dim, device)
    return torch.from_numpy(items).to(device), torch.from_numpy(merges).to(device), scratch


def _rows(model: Heads, bandwidth: float, options: Options) -> Rows:
    device, dtype = options.device, torch.float16 if options.device == "cuda" else torch.float32
    for count in TOKENS[: options.pick(len(TOKENS), 1)]:

        def new(*shape: int, count: int = count) -> Tensor:
            return torch.randn(count, *shape, device=device, dtype=dtype)

        x, out = new(model.hidden), new(model.hidden)
        both, active = new(2 * model.ffn), new(model.ffn)
        qkv = new((model.heads + 2 * model.kv_heads) * model.head_dim)
        half = torch.randn(count, model.head_dim // 2, device=device)
        weight = torch.ones(model.hidden, device=device, dtype=dtype)
        norm = weight[: model.head_dim] if model.qk_norm else None
        layer = torch.zeros(count // PAGE + 2, 2, model.kv_heads, PAGE, model.head_dim, device=device, dtype=dtype)
        slots = torch.arange(PAGE, PAGE + count, device=device, dtype=torch.int32)
        work: dict[str, tuple[Callable[..., object], tuple[object, ...], int]] = {
            "rms_norm": (rms_norm, (x, weight, 1e-6, out), 2 * x.nbytes),
            "qk_norm_rope_store": (
                qk_norm_rope_store, (qkv, norm, norm, 1e-6, half, half, layer, slots), 2 * qkv.nbytes
            ),
            "silu_and_mul": (silu_and_mul, (both, active), both.nbytes + active.nbytes),
        }  # fmt: skip
        for name, (kernel, arguments, moved) in work.items():
            calls: list[Work] = [partial(kernel, *arguments)] * options.pick(20, 1)
            seconds = per_call(calls, device, options.pick(5, 0) / 1e3)
            share = f"{moved / seconds / bandwidth:.0%}"
            yield "rows", {
                "model": model.model, "kernel": name, "tokens": count, "us": seconds * 1e6, "of the bandwidth": share
            }  # fmt: skip
