"""GEMMs of few tokens with a weight, in Triton: the weights are streamed once, at the bandwidth of the memory.

For T <= 16 tokens the time of a GEMM is that of reading the weight. A program reads BLOCK_N rows of it in tiles of
BLOCK_K columns, several tiles ahead. One token is multiplied and summed in float32; more are multiplied by tensor
cores, which accumulate in float32. Where a weight has too few rows to fill a card, SPLIT programs share the columns:
each writes a float32 partial, and the last to arrive adds them in their order, so equal inputs give equal bits.

On compute capability 9.0 and above a program starts before the kernel ahead of it has ended (programmatic dependent
launch): weights never change, and the wait stands before everything that does. OVERLAP: "off"; "on", nothing is read
before; "tile", a first tile is held in registers; "prefetch", PREFETCH bytes of each row are fetched into the L2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.cuda.dependent import launch_options, wait_for_kernels_ahead

MOST_TOKENS = 16
MOST_PARTS = 8  # of SPLIT
# Keeps a token times the weight of its norm within float16 before the norm's factor; a power of two rounds nothing.
NORM_SCALE = tl.constexpr(2.0**-4)

# What a program of a GEMM fetches of each row of the weight into the L2 before it may read the tokens.
PREFETCH = tl.constexpr(1024)  # bytes
PREFETCH_STEP = tl.constexpr(64)  # bytes

# Sums of a tile, up to which those of all its parts are read at once: there are no registers for more.
MOST_AT_ONCE = tl.constexpr(8192)


def default_meta(tokens: int, n: int, k: int) -> dict[str, Any]:
    """Return tiles for a GEMM of `tokens` tokens with a weight [n, k]."""
    if tokens == 1:
        return {"BLOCK_N": 16, "BLOCK_K": 512, "SPLIT": 1, "STAGES": 3, "OVERLAP": "tile", "num_warps": 4}
    split = 4 if n <= 4096 else 1
    return {"BLOCK_N": 64, "BLOCK_K": 128, "SPLIT": split, "STAGES": 4, "OVERLAP": "on", "num_warps": 4}


class Scratch(NamedTuple):
    """Partials of GEMMs that are split: float32, and an int32 counter for each tile of a result, zero between uses.

    Kernels that may run at the same time must not share one.
    """

    partials: Tensor
    counters: Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device, tokens: int = MOST_TOKENS, most: int = MOST_PARTS) -> Scratch:
        """Return room for weights of at most `rows` rows, multiplied by `tokens` tokens in `most` parts, at most."""
        partials = torch.empty(most * tokens * rows, dtype=torch.float32, device=device)
        return cls(partials, torch.zeros(rows, dtype=torch.int32, device=device))

    def of_parts(self, parts: int, tokens: int, n: int, tiles: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return the partials and counters of a GEMM [tokens, n] in so many tiles; None of one that is not split.

        Raises ValueError if they have no room here.
        """
        if parts == 1:
            return None, None
        if parts * tokens * n > self.partials.numel() or tiles > self.counters.numel():
            raise ValueError(f"{parts} parts of {tokens} x {n} sums in {tiles} tiles do not fit the scratch")
        return self.partials, self.counters


def skinny_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    eps: float,
    out: Tensor,
    scratch: Scratch | None = None,
    meta: dict[str, Any] | None = None,
) -> None:
    """Write x W^T + bias into `out` [T, N], of x's precision or float32; with `norm_weight` [K], of the RMSNorm of x.

    x: [T, K], T <= 16, or [T, 2 K], of which silu(x[:, :K]) * x[:, K:] is multiplied, rounded as `rows.silu_and_mul`
    rounds it. weight: [N, K], contiguous. scratch: needed if the GEMM is split, which none with a norm is.

    The factor of the norm, 1 / rms(x), multiplies the sums instead of the tokens. One token times `norm_weight` is not
    rounded at all; more are rounded once to x's precision, as `rows.rms_norm` rounds the normalized ones, so the
    results differ from the separate norm's by its own rounding error. In float16, |x * norm_weight| must be < 2^20.
    Raises ValueError if a GEMM with a norm is to be split.
    """
    _launch(x, weight, bias, norm_weight, eps, out, scratch, meta, add=False)


def skinny_add(
    x: Tensor, weight: Tensor, residual: Tensor, scratch: Scratch, meta: dict[str, Any] | None = None
) -> None:
    """Add x W^T to `residual` [T, N] in place, rounded once. x: [T, K] or [T, 2 K], as in `skinny_linear`."""
    _launch(x, weight, None, None, 0.0, residual, scratch, meta, add=True)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    eps: float,
    out: Tensor,
    scratch: Scratch | None,
    meta: dict[str, Any] | None,
    add: bool,
) -> None:
    tokens, (n, k) = x.shape[0], weight.shape
    meta = dict(meta or default_meta(tokens, n, k))
    block_n, block_k = meta["BLOCK_N"], meta["BLOCK_K"]
    blocks, tiles = triton.cdiv(k, block_k), triton.cdiv(n, block_n)
    per_part = triton.cdiv(blocks, meta.pop("SPLIT"))
    parts = triton.cdiv(blocks, per_part)
    if parts > 1 and (norm_weight is not None or scratch is None):
        raise ValueError("a GEMM with a norm, or without scratch, cannot be split")
    partials, counters = scratch.of_parts(parts, tokens, n, tiles) if scratch is not None else (None, None)
    _skinny[(tiles, parts)](
        x, weight, bias, norm_weight, out, partials, counters, eps, tokens, n, k, per_part, x.stride(0), out.stride(0),
        TOKENS=1 if tokens == 1 else MOST_TOKENS, SILU=x.shape[1] == 2 * k, ADD=add, PARTS=parts,
        EVEN_N=n % block_n == 0, EVEN_K=k % block_k == 0, **meta, **launch_options(meta["OVERLAP"] != "off"),
    )  # fmt: skip


@triton.jit
def _tokens_tile(
    x, norm_weight, start, k, tokens, x_stride, TOKENS: tl.constexpr, BLOCK_K: tl.constexpr, SILU: tl.constexpr,
    EVEN_K: tl.constexpr,
):  # fmt: skip
    """Return BLOCK_K columns of the tokens to multiply [TOKENS, BLOCK_K], and the columns of x for their squares."""
    token, column = tl.arange(0, TOKENS)[:, None], start + tl.arange(0, BLOCK_K)[None, :]
    inside = token < tokens
    if not EVEN_K:
        inside = inside & (column < k)
    place = x + token * x_stride + column
    values = tl.load(place, mask=inside, other=0.0)
    dtype = values.dtype
    if SILU:
        gate = values.to(tl.float32)
        gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
        values = (gate * tl.load(place + k, mask=inside, other=0.0).to(tl.float32)).to(dtype)
    multiplied = values
    if norm_weight is not None:
        weights = tl.load(norm_weight + column, mask=EVEN_K or column < k, other=0.0).to(tl.float32)
        multiplied = values.to(tl.float32) * weights * NORM_SCALE
        if TOKENS > 1:
            multiplied = multiplied.to(dtype)
    return multiplied, values


@triton.jit
def _weight_tile(weight, rows, start, k, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    column = start + tl.arange(0, BLOCK_K)[None, :]
    place = weight + rows.to(tl.int64)[:, None] * k + column
    if EVEN_K:
        tile = tl.load(place, eviction_policy="evict_first")
    else:
        tile = tl.load(place, mask=column < k, other=0.0, eviction_policy="evict_first")
    return tile


@triton.jit
def _prefetch(weight, rows, start, k):
    """Fetch the first PREFETCH bytes of each row's part into the L2."""
    size: tl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
    column = start + tl.arange(0, PREFETCH // PREFETCH_STEP) * (PREFETCH_STEP // size)
    place = weight + rows.to(tl.int64)[:, None] * k + tl.minimum(column, k - 1)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [place.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _multiply(acc, weights, tokens, TOKENS: tl.constexpr):
    """Add a tile's product: one token element by element, to be summed at the end; more by a matrix product."""
    if TOKENS == 1:
        acc += weights.to(tl.float32) * tokens.to(tl.float32)
    else:
        acc = tl.dot(weights, tl.trans(tokens), acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["tokens", "per_part"])
def _skinny(
    x, weight, bias, norm_weight, out, partials, counters, eps, tokens, n, k, per_part, x_stride, out_stride,
    TOKENS: tl.constexpr, SILU: tl.constexpr, ADD: tl.constexpr, PARTS: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, DEPENDENT: tl.constexpr,
    OVERLAP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows, parts of columns)."""
    block, part = tl.program_id(0), tl.program_id(1)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end read the last one, which needs no mask.
    read_rows = rows if EVEN_N else tl.minimum(rows, n - 1)
    start = part * per_part * BLOCK_K
    end = tl.minimum(start + per_part * BLOCK_K, k)
    early: tl.constexpr = BLOCK_K if OVERLAP == "tile" else 0
    if early:
        first = _weight_tile(weight, read_rows, start, k, BLOCK_K, EVEN_K)
    if DEPENDENT and OVERLAP == "prefetch":
        _prefetch(weight, read_rows, start, k)
    wait_for_kernels_ahead(DEPENDENT)
    acc = tl.zeros([BLOCK_N, BLOCK_K if TOKENS == 1 else TOKENS], tl.float32)
    squares = tl.zeros([TOKENS, BLOCK_K], tl.float32)
    for column in tl.range(start + early, end, BLOCK_K, num_stages=STAGES):
        weights = _weight_tile(weight, read_rows, column, k, BLOCK_K, EVEN_K)
        multiplied, values = _tokens_tile(
            x, norm_weight, column, k, tokens, x_stride, TOKENS, BLOCK_K, SILU, EVEN_K
        )  # fmt: skip
        acc = _multiply(acc, weights, multiplied, TOKENS)
        if norm_weight is not None:
            squares += values.to(tl.float32) * values.to(tl.float32)
    if early:
        # Last, so that the tiles of the loop are under way before anything waits for this one.
        multiplied, values = _tokens_tile(x, norm_weight, start, k, tokens, x_stride, TOKENS, BLOCK_K, SILU, EVEN_K)
        acc = _multiply(acc, first, multiplied, TOKENS)
        if norm_weight is not None:
            squares += values.to(tl.float32) * values.to(tl.float32)
    if TOKENS == 1:
        acc = tl.sum(acc, axis=1)[:, None]
    if norm_weight is not None:
        acc = acc * (tl.rsqrt(tl.sum(squares, axis=1) / k + eps) / NORM_SCALE)[None, :]

    token = tl.arange(0, TOKENS)[None, :]
    inside = token < tokens
    if not EVEN_N:
        inside = inside & (rows < n)[:, None]
    finish(
        acc, bias, out, partials, counters, part, block, rows, token, inside, tokens, n, out_stride,
        TOKENS, BLOCK_N, PARTS, ADD,
    )  # fmt: skip


@triton.jit
def finish(
    acc,
    bias,
    out,
    partials,
    counters,
    part,
    tile,
    rows,
    token,
    inside,
    tokens,
    n,
    out_stride,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr,
    ADD: tl.constexpr,
):
    """Write the sums [rows, tokens] of this part of the inputs, or of all parts if the others have theirs already.

    tile: its number among all of the result, each of which counts its own parts; token: its tokens, of `tokens`.
    """
    if PARTS == 1:
        write(acc, bias, out, rows, token, inside, n, out_stride, ADD)
    else:
        place = partials + token * n + rows[:, None]
        tl.store(place + part * tokens * n, acc, mask=inside)
        tl.debug_barrier()  # the counter tells other programs of the stores of all threads
        if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == PARTS - 1:
            total = tl.zeros([BLOCK_N, TOKENS], tl.float32)
            if BLOCK_N * TOKENS <= MOST_AT_ONCE:
                for other in tl.static_range(PARTS):
                    total += tl.load(place + other * tokens * n, mask=inside, other=0.0, cache_modifier=".cg")
            else:
                for other in tl.range(PARTS):
                    total += tl.load(place + other * tokens * n, mask=inside, other=0.0, cache_modifier=".cg")
            write(total, bias, out, rows, token, inside, n, out_stride, ADD)
            tl.store(counters + tile, 0)


@triton.jit
def write(acc, bias, out, rows, token, inside, n, out_stride, ADD: tl.constexpr):
    """Write float32 sums [rows, tokens], plus a bias [n] if there is one, into or onto `out` [T, n], rounded once."""
    if bias is not None:
        acc += tl.load(bias + rows, mask=rows < n, other=0.0).to(tl.float32)[:, None]
    place = out + token.to(tl.int64) * out_stride + rows[:, None]
    if ADD:
        acc += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, acc.to(out.dtype.element_ty), mask=inside)
