"""Triton kernels that pass over the rows of a step once: norms, rotary embedding, stores into the KV cache, activation.

They compute in float32 and round where `engine.model.layers` rounds in half precision, so both paths give the same
tokens. T is the number of tokens of the step, padding included; rows of inputs may be strided, elements may not. No
function synchronizes with the host or allocates, except `rotary_tables` without `out`, so all can be captured in a CUDA
graph. With `dependent`, a kernel starts while the one ahead of it ends: see `engine.model.cuda.dependent`. Sources:
RMSNorm, arXiv:1910.07467; rotary embedding, arXiv:2104.09864; SwiGLU, arXiv:2002.05202; multimodal rotary sections,
arXiv:2409.12191.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.cuda.dependent import launch_options, wait_for_kernels_ahead

# Elements that a program of silu_and_mul handles.
ELEMENTS = 1024
# Tokens that a program of rotary_tables handles.
TABLE_TOKENS = 4
# The greatest number of heads that a program of qk_norm_rope_store handles.
MOST_HEADS = 8


@triton.jit
def _rms_norm(
    x, weight, out, eps, x_stride, out_stride, N: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    wait_for_kernels_ahead(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < N
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    weights = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    values = values * tl.rsqrt(tl.sum(values * values, axis=0) / N + eps) * weights
    tl.store(out + row * out_stride + columns, values.to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, dependent: bool = False) -> None:
    """Write the RMSNorm of x [T, n] with `weight` [n] into `out` [T, n], which may be x."""
    size = x.shape[1]
    block = triton.next_power_of_2(size)
    warps = min(max(block // 512, 1), 8)
    _rms_norm[(x.shape[0],)](
        x, weight, out, eps, x.stride(0), out.stride(0),
        N=size, BLOCK=block, num_warps=warps, **launch_options(dependent),
    )  # fmt: skip


@triton.jit
def _norm_and_rotate(
    heads, weight, eps, cos, sin, token, NORM: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Return heads [BLOCK, D] of a token, normalized by `weight` [D] if NORM, and rotated."""
    dtype = heads.dtype
    values = heads.to(tl.float32)
    if NORM:
        inverse = tl.rsqrt(tl.sum(values * values, axis=1) / D + eps)
        weights = tl.load(weight + tl.arange(0, D)).to(tl.float32)
        # Rounded before and after the weight, as torch rounds them.
        values = (values * inverse[:, None]).to(dtype).to(tl.float32)
        values = (values * weights[None, :]).to(dtype).to(tl.float32)
    half = token * (D // 2) + tl.arange(0, D // 2)
    real, imaginary = tl.load(cos + half)[None, :], tl.load(sin + half)[None, :]
    even, odd = tl.split(tl.reshape(values, (BLOCK, D // 2, 2)))
    pairs = tl.join(even * real - odd * imaginary, even * imaginary + odd * real)
    return tl.reshape(pairs, (BLOCK, D)).to(dtype)


@triton.jit
def _qk_norm_rope_store(
    qkv, q_weight, k_weight, eps, cos, sin, layer, slot_mapping,
    qkv_stride, block_stride, value_stride, head_stride, offset_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr, NORM: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_ahead(DEPENDENT)
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_parts: tl.constexpr = (HEADS + BLOCK - 1) // BLOCK
    kv_parts: tl.constexpr = (KV_HEADS + BLOCK - 1) // BLOCK
    head, column = tl.arange(0, BLOCK), tl.arange(0, D)
    if part < q_parts:
        head += part * BLOCK
        inside = (head < HEADS)[:, None]
        place = qkv + token * qkv_stride + head[:, None] * D + column[None, :]
        heads = tl.load(place, mask=inside, other=0.0)
        heads = _norm_and_rotate(heads, q_weight, eps, cos, sin, token, NORM, BLOCK, D)
        tl.store(place, heads, mask=inside)
    else:
        is_value = part >= q_parts + kv_parts
        head += (part - q_parts - is_value * kv_parts) * BLOCK
        inside = (head < KV_HEADS)[:, None]
        row = HEADS + is_value * KV_HEADS + head
        heads = tl.load(qkv + token * qkv_stride + row[:, None] * D + column[None, :], mask=inside, other=0.0)
        if not is_value:
            heads = _norm_and_rotate(heads, k_weight, eps, cos, sin, token, NORM, BLOCK, D)
        slot = tl.maximum(tl.load(slot_mapping + token), 0).to(tl.int64)
        target = layer + (slot // PAGE) * block_stride + (slot % PAGE) * offset_stride + is_value * value_stride
        tl.store(target + head[:, None] * head_stride + column[None, :], heads, mask=inside)


def qk_norm_rope_store(
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    layer: Tensor,
    slot_mapping: Tensor,
    dependent: bool = False,
) -> None:
    """Normalize and rotate the queries in place; normalize and rotate the keys and store keys and values in the cache.

    qkv: [T, (heads + 2 kv_heads) * D], rotary pairs adjacent; D is a power of two. q_weight, k_weight: [D] each, both
    None for a model without these norms. cos, sin: float32 [T, D/2], contiguous. layer: one layer of the cache,
    [blocks, 2, kv_heads, block size, D]. slot_mapping: int32 or int64 [T], block * block size + offset; padding tokens
    have a slot of block 0, or a negative one, which means slot 0. The key part of qkv is left as it is.
    """
    _, _, kv_heads, page, dim = layer.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    block = min(triton.next_power_of_2(kv_heads), MOST_HEADS)
    parts = triton.cdiv(heads, block) + 2 * triton.cdiv(kv_heads, block)
    warps = min(max(block * dim // 256, 1), 4)
    _qk_norm_rope_store[(qkv.shape[0], parts)](
        qkv, q_weight, k_weight, eps, cos, sin, layer, slot_mapping,
        qkv.stride(0), layer.stride(0), layer.stride(1), layer.stride(2), layer.stride(3),
        HEADS=heads, KV_HEADS=kv_heads, D=dim, PAGE=page, BLOCK=block, NORM=q_weight is not None, num_warps=warps,
        **launch_options(dependent),
    )  # fmt: skip


@triton.jit
def _silu_and_mul(x, out, x_stride, out_stride, N: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    wait_for_kernels_ahead(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < N
    left = tl.load(x + row * x_stride + columns, mask=inside, other=0.0)
    right = tl.load(x + row * x_stride + N + columns, mask=inside, other=0.0).to(tl.float32)
    gate = left.to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(left.dtype).to(tl.float32)
    tl.store(out + row * out_stride + columns, (gate * right).to(out.dtype.element_ty), mask=inside)


def silu_and_mul(x: Tensor, out: Tensor, dependent: bool = False) -> None:
    """Write silu(x[:, :n]) * x[:, n:] into `out` [T, n], for x [T, 2 n]."""
    rows, size = out.shape
    block = min(triton.next_power_of_2(size), ELEMENTS)
    _silu_and_mul[(rows, triton.cdiv(size, block))](
        x, out, x.stride(0), out.stride(0), N=size, BLOCK=block, **launch_options(dependent)
    )  # fmt: skip


@triton.jit
def _rotary_tables(
    positions, frequencies, axes, cos, sin, scale, count, axis_stride,
    HALF: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.arange(0, BLOCK)
    inside = (token < count)[:, None] & (column < HALF)[None, :]
    place = token[:, None]
    if axes is not None:
        place += tl.load(axes + column, mask=column < HALF, other=0)[None, :] * axis_stride
    position = tl.load(positions + place, mask=inside, other=0).to(tl.float32)
    angle = position * tl.load(frequencies + column, mask=column < HALF, other=0.0)[None, :]
    target = token[:, None] * HALF + column[None, :]
    tl.store(cos + target, tl.cos(angle) * scale, mask=inside)
    tl.store(sin + target, tl.sin(angle) * scale, mask=inside)


def rotary_tables(
    positions: Tensor,
    frequencies: Tensor,
    axes: Tensor | None,
    scale: float,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, float32 [T, D/2] each, of the rotation of every pair of a head, in `out` if given.

    positions: int32 or int64, [T], or [3, T] for the three axes of steps with images, elements contiguous.
    frequencies: float32 [D/2]. axes: int32 or int64 [D/2], the axis that each frequency follows; not used for [T].
    scale: factor of all cosines and sines.
    """
    count, half = positions.shape[-1], frequencies.shape[0]
    if out is None:
        table = torch.empty(2, count, half, dtype=torch.float32, device=positions.device)
        out = table[0], table[1]
    flat = positions.dim() == 1
    _rotary_tables[(triton.cdiv(count, TABLE_TOKENS),)](
        positions, frequencies, None if flat else axes, *out, scale, count, 0 if flat else positions.stride(0),
        HALF=half, BLOCK=triton.next_power_of_2(half), TOKENS=TABLE_TOKENS,
    )  # fmt: skip
    return out
