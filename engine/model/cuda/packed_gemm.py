"""GEMMs with weights of 8 or 4 bits, in Triton: the packed bytes are read once and become numbers in registers.

A program multiplies BLOCK_N rows of a weight by a block of tokens, BLOCK_K packed bytes at a time. One token is
multiplied and summed in float32. More are multiplied by tensor cores in the precision of the activations: whole numbers
of 8 bits, which every precision represents exactly, and the scale of a group multiplies the float32 sum of its
products; whole numbers of 4 bits are multiplied by their scales first, and rounded once. Where tiles of tokens and rows
are too few for a card, SPLIT programs share each, as in `skinny`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.cuda.attention_plan import MULTIPROCESSORS
from engine.model.cuda.dependent import launch_options, wait_for_kernels_ahead
from engine.model.cuda.formats import FEW_TOKENS, GROUPS, MOST_PARTIALS, MOST_SPLIT, MOST_SPLIT_ROWS, Quantized
from engine.model.cuda.skinny import Scratch, finish

TOKEN_BLOCKS = (1, 16, 32, 64, 128)
MOST_WIDE_TOKENS = 32  # in float32, of a block
Meta = dict[str, Any]


def default_meta(tokens: int, n: int, bits: int, wide: bool = False, multiprocessors: int = MULTIPROCESSORS) -> Meta:
    """Return tiles for a GEMM of `tokens` tokens with a weight of n rows. Not measured on a card yet.

    wide: the tokens are in float32, of which the shared memory of some cards holds half as much.

    A program of many tokens takes a multiprocessor's registers, so there are no more of them than multiprocessors where
    they share tiles: some would begin when the others have ended. Programs of few tokens run side by side.
    """
    if tokens == 1:
        return {"TOKENS": 1, "BLOCK_N": 16, "BLOCK_K": 512, "SPLIT": 1, "STAGES": 3, "num_warps": 4}
    block = next((size for size in TOKEN_BLOCKS if size >= tokens), TOKEN_BLOCKS[-1])
    block = min(block, MOST_WIDE_TOKENS) if wide else block
    many = block > FEW_TOKENS
    block_n = 128 if many else 64
    tiles = triton.cdiv(tokens, block) * triton.cdiv(n, block_n)
    split = max(1, min(MOST_SPLIT, multiprocessors // tiles, MOST_PARTIALS // (tokens * n)))
    if tokens <= block <= FEW_TOKENS and n <= MOST_SPLIT_ROWS:
        split = MOST_SPLIT
    return {
        "TOKENS": block, "BLOCK_N": block_n, "BLOCK_K": 128 if bits == 8 else 64, "SPLIT": split,
        "STAGES": 2 if wide else 3 if many else 4, "num_warps": 8 if many else 4,
    }  # fmt: skip


def packed_scratch(device: torch.device) -> Scratch:
    """Return room for the partials of any GEMM that is split."""
    return Scratch.empty(MOST_SPLIT_ROWS, device, FEW_TOKENS, MOST_SPLIT)


def packed_linear(
    x: Tensor,
    weight: Quantized,
    out: Tensor,
    bias: Tensor | None = None,
    scratch: Scratch | None = None,
    dependent: bool = False,
    meta: Meta | None = None,
    add: bool = False,
    multiprocessors: int = MULTIPROCESSORS,
) -> None:
    """Write x W^T + bias into `out` [T, n], of x's precision or float32; with `add`, add it there, rounded once.

    x: [T, k], whose rows may lie apart. scratch: of `packed_scratch`; without it no GEMM is split. meta: tiles, by
    default those for so many multiprocessors. Raises ValueError if a GEMM is to be split that has no room in the
    scratch.
    """
    tokens, (n, k) = x.shape[0], weight.shape
    meta = dict(meta or default_meta(tokens, n, weight.bits, x.dtype == torch.float32, multiprocessors))
    group, width = GROUPS[weight.bits], weight.values.shape[1]
    block_n, block_k = meta["BLOCK_N"], meta["BLOCK_K"]
    blocks = triton.cdiv(width, block_k)
    split = meta.pop("SPLIT")  # the kernel has no such parameter
    per_part = triton.cdiv(blocks, split if scratch is not None else 1)
    parts = triton.cdiv(blocks, per_part)
    grid = triton.cdiv(tokens, meta["TOKENS"]), triton.cdiv(n, block_n), parts
    partials, counters = scratch.of_parts(parts, tokens, n, grid[0] * grid[1]) if scratch is not None else (None, None)
    _packed_gemm[grid](
        x, weight.values, weight.scales, bias, out, partials, counters, tokens, n, k, width, weight.scales.shape[1],
        per_part, x.stride(0), out.stride(0),
        BITS=weight.bits, GROUP_BYTES=group * weight.bits // 8, ADD=add, PARTS=parts, EVEN_N=n % block_n == 0,
        EVEN_K=k % group == 0 and width % block_k == 0, **meta, **launch_options(dependent),
    )  # fmt: skip


@triton.jit
def _tokens_tile(
    x, tokens_at, byte, half, tokens, k, x_stride, BITS: tl.constexpr, GROUP_BYTES: tl.constexpr, EVEN_K: tl.constexpr
):
    """Return what the weights in these bytes [BLOCK_K], or in a half of each, are multiplied by: [TOKENS, BLOCK_K]."""
    column = byte
    if BITS == 4:
        column = (byte // GROUP_BYTES) * (2 * GROUP_BYTES) + half * GROUP_BYTES + byte % GROUP_BYTES
    inside = (tokens_at < tokens)[:, None]
    if not EVEN_K:
        inside = inside & (column < k)[None, :]
    return tl.load(x + tokens_at.to(tl.int64)[:, None] * x_stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _scales_at(scales, rows, first, groups, GROUPS: tl.constexpr):
    """Return the scales of the groups from `first` of a row on: [BLOCK_N, GROUPS], or of one group [BLOCK_N].

    Past the end of a row they are those of its last group, where tokens are zeros.
    """
    if GROUPS == 1:
        place = scales + rows * groups + tl.minimum(first, groups - 1)
    else:
        group = tl.minimum(first + tl.arange(0, GROUPS), groups - 1)
        place = scales + rows[:, None] * groups + group[None, :]
    return tl.load(place)


@triton.jit
def _whole(values, half, BITS: tl.constexpr, dtype: tl.constexpr):
    """Return the whole numbers of packed bytes, or of a half of each, exactly.

    Written into the last bits of a large power of two, which takes no conversion: those of integers are slow.
    """
    OFFSET: tl.constexpr = 128 if BITS == 8 else 8
    if BITS == 4:
        values = (values >> (4 * half)) & 15
    if dtype == tl.float16:
        large = (values.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
        whole = large - tl.full([], 1024.0 + OFFSET, tl.float16)
    else:
        large = (values.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
        whole = (large - (8388608.0 + OFFSET)).to(dtype)
    return whole


@triton.jit(do_not_specialize=["tokens", "per_part"])
def _packed_gemm(
    x, values, scales, bias, out, partials, counters, tokens, n, k, width, groups, per_part, x_stride, out_stride,
    BITS: tl.constexpr, GROUP_BYTES: tl.constexpr, ADD: tl.constexpr, PARTS: tl.constexpr, EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr, DEPENDENT: tl.constexpr,
    TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of tokens, blocks of rows, parts of columns). Columns are counted in bytes of a row."""
    block, part = tl.program_id(1), tl.program_id(2)
    tokens_at = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end read the last one, which needs no mask.
    read_rows = (rows if EVEN_N else tl.minimum(rows, n - 1)).to(tl.int64)
    start = part * per_part * BLOCK_K
    end = tl.minimum(start + per_part * BLOCK_K, width)
    GROUPS: tl.constexpr = BLOCK_K // GROUP_BYTES
    dtype: tl.constexpr = x.dtype.element_ty
    wait_for_kernels_ahead(DEPENDENT)
    if TOKENS == 1:
        acc3 = tl.zeros([BLOCK_N, GROUPS, GROUP_BYTES], tl.float32)
    else:
        acc = tl.zeros([BLOCK_N, TOKENS], tl.float32)
    # Scales of 8 bits are too small for the pipeline: read a step ahead, else each step would wait for its own.
    if BITS == 8:
        next_scale = _scales_at(scales, read_rows, start // GROUP_BYTES, groups, GROUPS)
    for first in tl.range(start, end, BLOCK_K, num_stages=STAGES):
        group = first // GROUP_BYTES + tl.arange(0, GROUPS)
        byte3 = group[None, :, None] * GROUP_BYTES + tl.arange(0, GROUP_BYTES)[None, None, :]
        place, scale_place = (
            values + read_rows[:, None, None] * width + byte3,
            scales + read_rows[:, None] * groups + group[None, :],
        )
        if EVEN_K:
            packed = tl.load(place, eviction_policy="evict_first")
        else:
            packed = tl.load(place, mask=byte3 < width, other=0)
        if BITS == 8:
            scale = next_scale.to(tl.float32)
            next_scale = _scales_at(scales, read_rows, first // GROUP_BYTES + GROUPS, groups, GROUPS)
        elif EVEN_K:
            scale = tl.load(scale_place, eviction_policy="evict_first").to(tl.float32)
        else:
            scale = tl.load(scale_place, mask=(group < groups)[None, :], other=0.0).to(tl.float32)
        byte = first + tl.arange(0, BLOCK_K)
        for half in tl.static_range(8 // BITS):
            multiplied = _tokens_tile(x, tokens_at, byte, half, tokens, k, x_stride, BITS, GROUP_BYTES, EVEN_K)
            if TOKENS == 1:
                weights = _whole(packed, half, BITS, tl.float32) * scale.reshape(BLOCK_N, GROUPS, 1)
                acc3 += weights * multiplied.reshape(1, GROUPS, GROUP_BYTES).to(tl.float32)
            elif BITS == 8 and GROUPS == 1:
                weights = _whole(packed, half, BITS, dtype).reshape(BLOCK_N, BLOCK_K)
                products = tl.dot(weights, tl.trans(multiplied), input_precision="ieee")
                acc += products * scale[:, None]
            else:
                weights = (_whole(packed, half, BITS, tl.float32) * scale[:, :, None]).to(dtype)
                acc = tl.dot(weights.reshape(BLOCK_N, BLOCK_K), tl.trans(multiplied), acc, input_precision="ieee")
    if TOKENS == 1:
        acc = tl.sum(tl.sum(acc3, axis=2), axis=1)[:, None]

    token = tokens_at[None, :]
    inside = token < tokens
    if not EVEN_N:
        inside = inside & (rows < n)[:, None]
    tile = tl.program_id(0) * tl.num_programs(1) + block
    finish(
        acc, bias, out, partials, counters, part, tile, rows, token, inside, tokens, n, out_stride,
        TOKENS, BLOCK_N, PARTS, ADD,
    )  # fmt: skip
