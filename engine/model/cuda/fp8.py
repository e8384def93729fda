"""Linear layers in FP8 (e4m3), whose tensor cores are twice as fast: weights, and the tokens of each GEMM.

Every output of a weight and every token has a scale of its own, float32, by which its largest value becomes the largest
of the format; so a token's result depends on no other token. The GEMMs are `torch._scaled_mm`'s, which cuBLAS
computes from compute capability 8.9 on, with scales of 1: ours multiply its sums, which are rounded to bfloat16, in the
kernel that adds the bias or the residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.errors import DamagedWeights
from engine.model.cuda.dependent import launch_options, wait_for_kernels_ahead
from engine.model.cuda.formats import chunks

FORMAT = torch.float8_e4m3fn
LARGEST = 448.0  # of the format
BLOCK = 1024  # columns that a program computes at a time


@dataclass(frozen=True, slots=True)
class Fp8:
    """A weight [n, k], both multiples of 16. values: float8_e4m3fn [n, k]; scales: float32 [n]; one: float32, 1."""

    values: Tensor
    scales: Tensor
    one: Tensor

    @classmethod
    def empty(cls, rows: int, inner: int, device: torch.device) -> Fp8:
        """Return an uninitialized weight [rows, inner]."""
        return cls(
            torch.empty(rows, inner, dtype=FORMAT, device=device),
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.ones((), dtype=torch.float32, device=device),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: outputs, inputs."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """The size in memory."""
        return int(self.values.nbytes + self.scales.nbytes)

    def dequantized(self) -> Tensor:
        """Return the weight that GEMMs compute with, float32 [n, k]."""
        return self.values.float() * self.scales[:, None]


def quantize_fp8(parts: Sequence[Tensor], device: torch.device) -> Fp8:
    """Return weights [n_i, k] of any float dtype, one below the other, on a device. Raises DamagedWeights."""
    whole, first = Fp8.empty(sum(part.shape[0] for part in parts), parts[0].shape[1], device), 0
    for chunk in chunks(parts):
        weight = chunk.to(device).float()
        if not bool(torch.isfinite(weight).all()):
            raise DamagedWeights("a weight has values that are no finite numbers")
        last, scales = first + len(weight), weight.abs().amax(1) / LARGEST
        scales = torch.where(scales < torch.finfo(torch.float32).tiny, 0.0, scales)
        inverse = torch.where(scales == 0, 0.0, 1 / scales)[:, None]
        whole.values[first:last] = (weight * inverse).clamp(-LARGEST, LARGEST).to(FORMAT)
        whole.scales[first:last], first = scales, last
    return whole


def fp8_linear(
    x: Tensor, weight: Fp8, out: Tensor, bias: Tensor | None = None, add: bool = False, dependent: bool = False
) -> None:
    """Write x W^T + bias into `out` [T, n], of x's precision; with `add`, add it there. x: [T, k], contiguous rows."""
    (tokens, k), n = x.shape, weight.shape[0]
    values, scales = torch.empty(tokens, k, dtype=FORMAT, device=x.device), x.new_empty(tokens, dtype=torch.float32)
    options = launch_options(dependent)
    _quantize_tokens[(tokens,)](x, values, scales, x.stride(0), K=k, BLOCK=BLOCK, **options)
    one = weight.one
    products = torch._scaled_mm(values, weight.values.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    _scale_products[(tokens, triton.cdiv(n, BLOCK))](
        products, scales, weight.scales, bias, out, n, out.stride(0), ADD=add, BLOCK=BLOCK, **options
    )


@triton.jit
def _quantize_tokens(x, values, scales, x_stride, K: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    wait_for_kernels_ahead(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    largest = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(0, K, BLOCK):
        column = first + tl.arange(0, BLOCK)
        loaded = tl.load(x + token * x_stride + column, mask=column < K, other=0.0).to(tl.float32)
        # A value that is no number makes the scale one: the maximum of numbers would pass over it.
        largest = tl.maximum(largest, tl.abs(loaded), propagate_nan=tl.PropagateNan.ALL)
    scale = tl.max(largest, axis=0) / 448.0
    sums = tl.sum(largest * 0.0, axis=0)
    inverse = tl.where(scale < 1e-37, 0.0, 1.0 / tl.maximum(scale, 1e-37))
    tl.store(scales + token, scale + sums)
    for first in tl.range(0, K, BLOCK):
        column = first + tl.arange(0, BLOCK)
        loaded = tl.load(x + token * x_stride + column, mask=column < K, other=0.0).to(tl.float32)
        scaled = tl.minimum(tl.maximum(loaded * inverse, -448.0), 448.0)
        tl.store(values + token * K + column, scaled.to(values.dtype.element_ty), mask=column < K)


@triton.jit
def _scale_products(
    products, token_scales, weight_scales, bias, out, n, out_stride,
    ADD: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_ahead(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    scale = tl.load(token_scales + token) * tl.load(weight_scales + column, mask=inside, other=0.0)
    result = tl.load(products + token * n + column, mask=inside, other=0.0).to(tl.float32) * scale
    if bias is not None:
        result += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    place = out + token * out_stride + column
    if ADD:
        result += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)
