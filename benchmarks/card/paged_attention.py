"""Our paged attention at the shapes of both models: bandwidth of decode, chunks against flash attention, tuning."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from benchmarks.card.record import Options, Row, Rows, told, told_if_none_ran
from benchmarks.card.timing import Work, per_call
from benchmarks.harness.bandwidth import copy_bandwidth

HEADS = {"8B": (32, 8), "7B": (28, 4)}  # query heads, key heads
PAGE = 16
MOST_BYTES = 400_000_000  # of keys and values that one graph reads: more than the L2 cache holds
MOST_LAYERS = 64
WRONG = 0.01  # of values with a deviation of 1 and less
PLANS: tuple[dict[str, Any], ...] = ({"part_keys": 128}, {"part_keys": 512}, {"programs": 1}, {"programs": 4})
METAS: tuple[dict[str, Any], ...] = (
    {"LAST_MERGES": True},
    {"TILE_KEYS": 64, "TILE_STAGES": 2},
    {"DECODE_KEYS": 32, "DECODE_STAGES": 4},
    {"DECODE_STAGES": 2},
    {"DECODE_STAGES": 4},
    {"maxnreg": 168},
    {"TILE_ROWS": 128, "num_warps": 8},
    {"DECODE_KEYS": 128, "DECODE_STAGES": 2},
    {"TILE_KEYS": 64, "TILE_STAGES": 3},
    {"TILE_STAGES": 4},
    {"num_warps": 8},
    {"TILE_KEYS": 128, "TILE_STAGES": 2, "num_warps": 8},
    {"DECODE_KEYS": 32},
)
Sequences = list[tuple[int, int]]  # tokens of this step, position of the first


def cases(options: Options) -> dict[str, Sequences]:
    """Return the steps that are measured."""
    rng, scale = random.Random(0), options.pick(1, 32)

    def decode(rows: int, *between: tuple[int, int]) -> Sequences:
        rows = max(rows // scale, 1)
        return [(1, rng.randint(*between[row % len(between)]) // scale) for row in range(rows)]

    found = {f"{rows} rows of 100-600": decode(rows, (100, 600)) for rows in (1, 8, 64, 128)}
    found |= {f"{rows} rows of 2k, 4k": decode(rows, (1900, 2100), (3900, 4090)) for rows in (1, 8, 64, 128)}
    found["1 row of 40k"] = [(1, 40_000 // scale)]
    found["63 rows of 100-600, 1 of 4k"] = [*decode(63, (100, 600)), (1, 4000 // scale)]
    found["64 rows of 100-600, chunk 256"] = [*decode(64, (100, 600)), (256 // scale, 0)]
    found |= {f"chunk 512 after {start}": [(512 // scale, start // scale)] for start in (0, 512, 4096)}
    return dict(list(found.items())[:: options.pick(1, 5)])


def paged_attention(options: Options) -> Rows:
    """Yield times, bandwidths and errors: of every case, then of other plans and settings of the kernel."""
    bandwidth = copy_bandwidth(options.device)
    yield "copy", {"GB/s": bandwidth / 1e9}
    for model in HEADS:
        for case, sequences in cases(options).items():
            row: Row = {"model": model, "case": case, **measured(model, sequences, options, bandwidth)}
            yield from told("paged attention", row, WRONG)
            yield from told_if_none_ran("paged attention", [row])  # every card holds the defaults
    variants = [("meta", meta) for meta in METAS] + [("plan", plan) for plan in PLANS]
    for kind, variant in variants[:: options.pick(1, 10)]:
        for model, case in _tuned(kind, variant):
            if case in cases(options):
                plan, meta = (variant, {}) if kind == "plan" else ({}, variant)
                row = measured(model, cases(options)[case], options, bandwidth, plan, meta)
                yield from told("tuning", {"changed": str(variant), "model": model, "case": case, **row}, WRONG)


def _tuned(kind: str, variant: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the cases that a change touches."""
    for model in HEADS:
        if not any(name.startswith("TILE") for name in variant):
            yield from ((model, f"{rows} rows of 100-600") for rows in (8, 64, 128))
            yield from ((model, f"{rows} rows of 2k, 4k") for rows in (1, 64))
            yield model, "63 rows of 100-600, 1 of 4k"
        if kind == "meta":
            yield model, "64 rows of 100-600, chunk 256"
            yield from ((model, f"chunk 512 after {start}") for start in (0, 4096))


class _Step(NamedTuple):
    """Inputs of one step in every layer. cache: [layers, blocks, 2, kv_heads, PAGE, D]; plan: items and merges."""

    q: Tensor
    cache: Tensor
    tables: Tensor
    plan: tuple[Tensor, Tensor]
    partials: int


def measured(
    model: str,
    sequences: Sequences,
    options: Options,
    bandwidth: float,
    plan: Mapping[str, Any] = MappingProxyType({}),
    meta: Mapping[str, Any] = MappingProxyType({}),
    dependent: bool = False,
    timed_seconds: float = 0.01,
) -> Row:
    """Return the time of attention in every layer of a step, and its error.

    plan, meta: what differs from the defaults of the planner and the kernel; timed_seconds: how long to measure.
    """
    from engine.model.cuda.attention import META, AttentionWorkspace
    from engine.model.cuda.attention import paged_attention as attend

    settings: dict[str, Any] = {**META, **meta}
    heads, kv_heads = HEADS[model]
    step = _step(heads, kv_heads, sequences, options, {**plan, "tile_rows": settings["TILE_ROWS"]})
    out = torch.zeros_like(step.q).flatten(1)
    workspace = AttentionWorkspace.empty(step.partials, heads, step.q.shape[2], step.q.device)
    calls: list[Work] = [
        partial(attend, step.q, layer, step.tables, *step.plan, workspace, out, meta=settings, dependent=dependent)
        for layer in step.cache
    ]
    try:
        calls[0]()
    except Exception as error:  # too much shared memory; the next variant goes on
        return {"refused": f"{type(error).__name__}: {error}"[:120]}
    difference = _difference(step, sequences, out)
    seconds = per_call(calls, options.device, timed_seconds)
    keys = sum(start + tokens for tokens, start in sequences)
    needed = keys * step.cache[0, 0, :, :, 0].nbytes
    row: Row = {"us": seconds * 1e6, "GB/s": needed / seconds / 1e9, "of copy": needed / seconds / bandwidth}
    row |= {"items": int((step.plan[0][:, 1] > 0).sum()), "error": difference}
    if len(sequences) == 1 and sequences[0][0] > 1 and not meta:
        row["flash us"] = _flash(step, *sequences[0], options) * 1e6
    return row


def _step(heads: int, kv_heads: int, sequences: Sequences, options: Options, plan: Mapping[str, Any]) -> _Step:
    from engine.model.cuda.attention_plan import AttentionPlanner

    device, dim = options.device, options.pick(128, 16)
    tokens, starts = np.array(sequences, dtype=np.int32).T.copy()
    total, rows = int(tokens.sum()), np.arange(len(tokens), dtype=np.int32)
    blocks = -(-(starts + tokens) // PAGE)
    order = np.random.default_rng(0).permutation(int(blocks.sum())).astype(np.int32) + 1
    tables = np.zeros((len(tokens), -(-int(blocks.max()) // PAGE) * PAGE), dtype=np.int32)
    for row, own in enumerate(np.split(order, np.cumsum(blocks)[:-1])):
        tables[row, : len(own)] = own
    block_bytes = 2 * kv_heads * PAGE * dim * 2
    layers = min(options.pick(MOST_LAYERS, 1), MOST_BYTES // (len(order) * block_bytes) + 1)
    cache = torch.randn(layers, len(order) + 1, 2, kv_heads, PAGE, dim, device=device, dtype=torch.float16)
    qkv = torch.randn(total, heads + 2 * kv_heads, dim, device=device, dtype=torch.float16)
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count if device == "cuda" else 2
    planner = AttentionPlanner(heads, kv_heads, multiprocessors, **plan)
    items = np.zeros((planner.max_items(total), 8), dtype=np.int32)
    merges = np.zeros((planner.max_merges(total), 4), dtype=np.int32)
    planner.plan(np.cumsum(tokens, dtype=np.int32) - tokens, tokens, rows, starts, items, merges)
    planned = (torch.from_numpy(items).to(device), torch.from_numpy(merges).to(device))
    return _Step(qkv[:, :heads], cache, torch.from_numpy(tables).to(device), planned, planner.max_partials(total))


def _difference(step: _Step, sequences: Sequences, out: Tensor) -> float:
    """Return the greatest difference of the first layer from torch in float32."""
    first, greatest = 0, 0.0
    for row, (tokens, start) in enumerate(sequences):
        k, v = _keys_and_values(step, row, start + tokens)
        q = step.q[first : first + tokens].transpose(0, 1)[None].float()
        mask = (
            torch.arange(start + tokens, device=q.device)
            <= torch.arange(start, start + tokens, device=q.device)[:, None]
        )
        with sdpa_kernel(SDPBackend.MATH):
            expected = F.scaled_dot_product_attention(q, k.float(), v.float(), attn_mask=mask, enable_gqa=True)
        difference = out[first : first + tokens].float() - expected[0].transpose(0, 1).flatten(1)
        greatest = max(greatest, float(difference.abs().max()))
        first += tokens
    return greatest


def _keys_and_values(step: _Step, row: int, length: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of one sequence in the first layer, [1, kv_heads, length, D] each."""
    blocks = step.tables[row, : -(-length // PAGE)].long()
    pages = step.cache[0][blocks].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, None, :, :length]
    return pages[0].contiguous(), pages[1].contiguous()


def _flash(step: _Step, tokens: int, start: int, options: Options) -> float:
    """Return the seconds of torch's flash attention for the same chunk over keys and values without pages."""
    k, v = _keys_and_values(step, 0, start + tokens)
    group = step.q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    q = step.q.transpose(0, 1)[None].contiguous()
    bias = causal_lower_right(tokens, start + tokens)

    def call() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        return per_call([call] * 4, options.device)
