"""Triton kernels at both ends of a step: from token ids to hidden states, and to the rows whose logits are wanted.

Each is one launch in place of several of torch, whose time in a step of few rows is that of launching. None
synchronizes with the host or allocates, so both can be captured in a CUDA graph.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.model.cuda.formats import GROUPS, OFFSETS, Quantized, Weight

ELEMENTS = 1024  # that a program copies


@triton.jit
def _embed_tokens(
    ids, last_tokens, embedding, scales, out, places, blocks, tables, embedding_stride, scales_stride, out_stride,
    N: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token_id = tl.load(ids + token).to(tl.int64)
    if token_id < 0:
        token_id = tl.load(last_tokens - 1 - token_id).to(tl.int64)
    column = part * BLOCK + tl.arange(0, BLOCK)
    byte = column
    if BITS == 4:
        byte = column // GROUP * (GROUP // 2) + column % (GROUP // 2)
    values = tl.load(embedding + token_id * embedding_stride + byte, mask=column < N)
    if scales is not None:
        if BITS == 4:
            values = (values >> (column % GROUP // (GROUP // 2) * 4).to(tl.uint8)) & 15
        scale = tl.load(scales + token_id * scales_stride + column // GROUP, mask=column < N).to(tl.float32)
        values = ((values.to(tl.float32) - OFFSET) * scale).to(out.dtype.element_ty)
    tl.store(out + token * out_stride + column, values, mask=column < N)
    if part == 0:
        tl.store(tables + tl.load(places + token), tl.load(blocks + token))


def embed_tokens(
    ids: Tensor, last_tokens: Tensor, embedding: Weight, updates: Tensor, tables: Tensor, out: Tensor
) -> None:
    """Write the embeddings of a step's tokens into `out` [T, hidden], and the blocks that are new into `tables`.

    ids: int32 or int64 [T], a token id, or -1 - r for the token in last_tokens[r], which the host has not read yet.
    embedding: [vocabulary, hidden], of the precision of `out` or quantized. updates: int32 [2, T], each a place in the
    flat block tables and a block; what is no update names a place that nobody reads. tables: int32, contiguous.
    """
    count, size = out.shape
    block = min(triton.next_power_of_2(size), ELEMENTS)
    values, scales, bits = embedding, None, 0
    if isinstance(embedding, Quantized):
        values, scales, bits = embedding.values, embedding.scales, embedding.bits
    assert isinstance(values, Tensor)
    _embed_tokens[(count, triton.cdiv(size, block))](
        ids, last_tokens, values, scales, out, updates[0], updates[1], tables, values.stride(0),
        0 if scales is None else scales.stride(0), out.stride(0),
        N=size, BLOCK=block, BITS=bits, GROUP=GROUPS.get(bits, 1), OFFSET=OFFSETS.get(bits, 0),
    )  # fmt: skip


@triton.jit
def _take_rows(
    first, second, index, first_out, second_out, first_stride, second_stride,
    FIRST: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(index + row).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(first + source * first_stride + column, mask=column < FIRST)
    tl.store(first_out + row * FIRST + column, values, mask=column < FIRST)
    values = tl.load(second + source * second_stride + column, mask=column < SECOND)
    tl.store(second_out + row * SECOND + column, values, mask=column < SECOND)


def take_rows(first: Tensor, second: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows `index` [n] of two matrices with as many rows: [n, columns of each]."""
    rows, widths = index.shape[0], (first.shape[1], second.shape[1])
    outs = first.new_empty(rows, widths[0]), second.new_empty(rows, widths[1])
    block = min(triton.next_power_of_2(max(widths)), ELEMENTS)
    _take_rows[(rows, triton.cdiv(max(widths), block))](
        first, second, index, *outs, first.stride(0), second.stride(0),
        FIRST=widths[0], SECOND=widths[1], BLOCK=block,
    )  # fmt: skip
    return outs
