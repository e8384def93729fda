"""Paged attention on a CUDA device, in Triton: decode rows and chunks of prompts in one launch.

Keys and values lie in pages of PAGE tokens, found through block tables. Which program reads which keys is planned by
`attention_plan`, which defines items and merges. All query heads that share a key head are rows of one tile, so keys
and values are read once. Softmax is computed while reading, in base 2 and float32 (FlashAttention, arXiv:2205.14135);
parts of one context are joined by their maxima and sums (flash decoding): by a second launch or, with `LAST_MERGES`, by
the last program to arrive of those that compute the parts of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.cuda.attention_plan import TILE_ROWS
from engine.model.cuda.dependent import launch_options, wait_for_kernels_ahead

PAGE = tl.constexpr(16)  # tokens
DECODE_ROWS = tl.constexpr(16)  # the least rows of a GEMM; at most so many query rows take the path of decode
LOWEST = tl.constexpr(-1e30)  # a maximum before the first key: finite, so that differences are never NaN
# Key tiles and pipeline stages of both paths, warps of a program, and who merges.
META: dict[str, Any] = {
    "TILE_ROWS": TILE_ROWS,
    "DECODE_KEYS": 64,
    "DECODE_STAGES": 3,
    "TILE_KEYS": 32,
    "TILE_STAGES": 3,
    "LAST_MERGES": False,
    "num_warps": 4,
}
# Of float32 half as many keys, which take as much shared memory: cards with 99 KiB of it have no room for more.
HALVED = ("DECODE_KEYS", "TILE_KEYS")


class AttentionWorkspace(NamedTuple):
    """Partial results: of P tokens, and how many parts of each tile have arrived.

    acc: float32 [P, heads, D], unnormalised; stats: float32 [P, heads, 2], maximum and sum; arrived: int32 [P, heads],
    zeros between launches.
    """

    acc: Tensor
    stats: Tensor
    arrived: Tensor

    @classmethod
    def empty(cls, partials: int, heads: int, head_dim: int, device: torch.device) -> AttentionWorkspace:
        """Return room for the partial results of `partials` tokens."""
        acc = torch.empty(partials, heads, head_dim, dtype=torch.float32, device=device)
        stats = torch.empty(partials, heads, 2, dtype=torch.float32, device=device)
        return cls(acc, stats, torch.zeros(partials, heads, dtype=torch.int32, device=device))


def paged_attention(
    q: Tensor,
    layer: Tensor,
    block_tables: Tensor,
    items: Tensor,
    merges: Tensor,
    workspace: AttentionWorkspace,
    out: Tensor,
    scale: float | None = None,
    meta: Mapping[str, Any] = META,
    dependent: bool = False,
) -> None:
    """Write the attention of the planned query tokens to `out`; rows that no item covers stay as they are.

    q: [T, heads, D], a token's heads contiguous; layer: [blocks, 2, kv_heads, PAGE, D], contiguous; block_tables: int32
    [rows, max_blocks]; items: int32 [W, 8]; merges: int32 [M, 4]; out: [T, heads * D], contiguous. D is a power of two
    from 16. scale: of the scores, 1 / sqrt(D) by default. Keys and values that no item reads may be anything, NaN too.
    dependent: start while the kernel ahead ends, see `engine.model.cuda.dependent`.
    """
    heads, head_dim = q.shape[1:]
    kv_heads = layer.shape[2]
    if q.dtype == torch.float32:
        meta = {**meta, **{name: meta[name] // 2 for name in HALVED}}
    attend_kernel[(kv_heads, items.shape[0])](
        q,
        layer,
        block_tables,
        items,
        merges,
        workspace.acc,
        workspace.stats,
        workspace.arrived,
        out,
        q.stride(0),
        block_tables.stride(0),
        (head_dim**-0.5 if scale is None else scale) * math.log2(math.e),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        **meta,
        **launch_options(dependent),
    )
    if merges.shape[0] and not meta["LAST_MERGES"]:
        merge_kernel[(kv_heads, merges.shape[0])](
            merges,
            workspace.acc,
            workspace.stats,
            out,
            KV_HEADS=kv_heads,
            GROUP=heads // kv_heads,
            HEAD_DIM=head_dim,
            TILE_ROWS=meta["TILE_ROWS"],
            num_warps=8,
            **launch_options(dependent),
        )


# Whatever the number of blocks in a row of the tables: the same program.
@triton.jit(do_not_specialize=["table_stride"])
def attend_kernel(
    q,
    layer,
    block_tables,
    items,
    merges,
    acc,
    stats,
    arrived,
    out,
    q_stride,
    table_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    DECODE_KEYS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    DECODE_STAGES: tl.constexpr,
    TILE_STAGES: tl.constexpr,
    LAST_MERGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (kv_heads, W): the attention of one item for the query heads of one key head."""
    wait_for_kernels_ahead(DEPENDENT)
    head = tl.program_id(0)
    item = items + tl.program_id(1) * 8
    tokens = tl.load(item + 1)
    if tokens == 0:
        return
    if tokens * GROUP <= DECODE_ROWS:
        attend_tile(
            q, layer, block_tables, item, merges, tokens, head, acc, stats, arrived, out, q_stride, table_stride, scale,
            KV_HEADS, GROUP, HEAD_DIM, DECODE_ROWS, DECODE_KEYS, DECODE_STAGES, LAST_MERGES,
        )  # fmt: skip
    else:
        attend_tile(
            q, layer, block_tables, item, merges, tokens, head, acc, stats, arrived, out, q_stride, table_stride, scale,
            KV_HEADS, GROUP, HEAD_DIM, TILE_ROWS, TILE_KEYS, TILE_STAGES, LAST_MERGES,
        )  # fmt: skip


@triton.jit
def attend_tile(
    q,
    layer,
    block_tables,
    item,
    merges,
    tokens,
    head,
    acc,
    stats,
    arrived,
    out,
    q_stride,
    table_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    LAST_MERGES: tl.constexpr,
):
    """Compute one item with a tile of ROWS query rows (token-major, then heads of the group) and KEYS keys a step."""
    first_token, table_row = tl.load(item), tl.load(item + 2)
    first_position, key_start, key_end = tl.load(item + 3), tl.load(item + 4), tl.load(item + 5)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    token, q_head = rows // GROUP, head * GROUP + rows % GROUP
    valid = token < tokens
    queries = tl.load(
        q + (first_token + token).to(tl.int64)[:, None] * q_stride + (q_head * HEAD_DIM)[:, None] + dims[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    ends = tl.minimum(first_position + token + 1, key_end)
    highest = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    table = block_tables + table_row.to(tl.int64) * table_stride
    key = key_start + tl.arange(0, KEYS)
    # The blocks of the next keys are read a step ahead: else keys and values would wait for them in the pipeline.
    block = tl.load(table + key // PAGE, mask=key < key_end, other=0)
    for start in tl.range(key_start, key_end, KEYS, num_stages=STAGES):
        key = start + tl.arange(0, KEYS)
        inside = key < key_end
        offset = ((block.to(tl.int64) * (2 * KV_HEADS) + head) * PAGE + key % PAGE) * HEAD_DIM
        place = layer + offset[:, None] + dims[None, :]
        block = tl.load(table + (key + KEYS) // PAGE, mask=key + KEYS < key_end, other=0)
        keys = tl.load(place, mask=inside[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(key[None, :] < ends[:, None], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        # Zeros where no key is: a weight of zero times whatever lies in memory could be NaN.
        values = tl.load(place + KV_HEADS * PAGE * HEAD_DIM, mask=inside[:, None], other=0.0)
        result = tl.dot(weights.to(values.dtype), values, result * shrink[:, None], input_precision="ieee")
        highest = higher
    partial = tl.load(item + 6)
    if partial < 0:
        result = result / tl.where(total > 0.0, total, 1.0)[:, None]
        target = ((first_token + token).to(tl.int64) * (KV_HEADS * GROUP) + q_head) * HEAD_DIM
        tl.store(out + target[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=valid[:, None])
    else:
        row = (partial + token).to(tl.int64) * (KV_HEADS * GROUP) + q_head
        tl.store(acc + row[:, None] * HEAD_DIM + dims[None, :], result, mask=valid[:, None])
        tl.store(stats + row * 2, highest, mask=valid)
        tl.store(stats + row * 2 + 1, total, mask=valid)
        if LAST_MERGES:
            merge = tl.load(item + 7)
            counter = arrived + merge * KV_HEADS + head
            # Every thread's results are stored before one thread counts this part as arrived.
            tl.debug_barrier()
            before = tl.atomic_add(counter, 1, sem="acq_rel")
            if before + 1 == tl.load(merges + merge * 4 + 3):
                tl.store(counter, 0)
                if tokens == 1:
                    merge_token(merges + merge * 4, head, acc, stats, out, KV_HEADS, GROUP, HEAD_DIM)
                else:
                    merge_tile(merges + merge * 4, tokens, head, acc, stats, out, KV_HEADS, GROUP, HEAD_DIM, ROWS)


@triton.jit
def merge_token(
    merge, head, acc, stats, out, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr
):  # fmt: skip
    """Join the parts of one token for the query heads of one key head, several parts at a time."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    LANES: tl.constexpr = 1 if GROUP == 1 else 2 if GROUP == 2 else 4 if GROUP <= 4 else 8 if GROUP <= 8 else 16
    PARTS: tl.constexpr = 64 // LANES
    first_token, first_partial, parts = tl.load(merge), tl.load(merge + 2), tl.load(merge + 3)
    lane, dims = tl.arange(0, LANES), tl.arange(0, HEAD_DIM)
    q_head = head * GROUP + lane
    highest = tl.full([LANES], LOWEST, tl.float32)
    total = tl.zeros([LANES], tl.float32)
    result = tl.zeros([LANES, HEAD_DIM], tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (lane < GROUP)[None, :]
        row = (first_partial + part).to(tl.int64)[:, None] * HEADS + q_head[None, :]
        maxima = tl.load(stats + row * 2, mask=inside, other=LOWEST, cache_modifier=".cg")
        sums = tl.load(stats + row * 2 + 1, mask=inside, other=0.0, cache_modifier=".cg")
        place = acc + row[:, :, None] * HEAD_DIM + dims[None, None, :]
        results = tl.load(place, mask=inside[:, :, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(highest, tl.max(maxima, 0))
        weights, shrink = tl.exp2(maxima - higher[None, :]), tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights * sums, 0)
        result = result * shrink[:, None] + tl.sum(weights[:, :, None] * results, 0)
        highest = higher
    result = result / tl.where(total > 0.0, total, 1.0)[:, None]
    target = (first_token.to(tl.int64) * HEADS + q_head) * HEAD_DIM
    tl.store(out + target[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=(lane < GROUP)[:, None])


@triton.jit
def merge_tile(
    merge, tokens, head, acc, stats, out,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Join the parts of a tile of several tokens for the query heads of one key head."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    first_token, first_partial, parts = tl.load(merge), tl.load(merge + 2), tl.load(merge + 3)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM)
    token, q_head = rows // GROUP, head * GROUP + rows % GROUP
    valid = token < tokens
    highest = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    for part in range(parts):
        row = (first_partial + part * tokens + token).to(tl.int64) * HEADS + q_head
        maxima = tl.load(stats + row * 2, mask=valid, other=LOWEST, cache_modifier=".cg")
        sums = tl.load(stats + row * 2 + 1, mask=valid, other=0.0, cache_modifier=".cg")
        place = acc + row[:, None] * HEAD_DIM + dims[None, :]
        results = tl.load(place, mask=valid[:, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(highest, maxima)
        weights, shrink = tl.exp2(maxima - higher), tl.exp2(highest - higher)
        total = total * shrink + weights * sums
        result = result * shrink[:, None] + weights[:, None] * results
        highest = higher
    result = result / tl.where(total > 0.0, total, 1.0)[:, None]
    target = ((first_token + token).to(tl.int64) * HEADS + q_head) * HEAD_DIM
    tl.store(out + target[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=valid[:, None])


@triton.jit
def merge_kernel(
    merges, acc, stats, out,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, TILE_ROWS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Grid (kv_heads, M): join the parts of one tile for the query heads of one key head."""
    wait_for_kernels_ahead(DEPENDENT)
    head, merge = tl.program_id(0), merges + tl.program_id(1) * 4
    tokens = tl.load(merge + 1)
    if tokens == 1:
        merge_token(merge, head, acc, stats, out, KV_HEADS, GROUP, HEAD_DIM)
    elif tokens > 1:
        merge_tile(merge, tokens, head, acc, stats, out, KV_HEADS, GROUP, HEAD_DIM, TILE_ROWS)
