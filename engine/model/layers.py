"""Layers shared by the text stack and the vision tower: norms, rotary embedding, SiLU-and-multiply, weight transfer.

On the CPU in float32, the weight of a norm and the factor sqrt(n) of its root mean square are folded into the following
projection, which saves passes over each row; in fewer bits the product of two weights would be rounded twice. On the
CPU each operation also has a kernel that passes over a row once (`kernels`); without it torch computes the same.
Sources: RMSNorm, arXiv:1910.07467; rotary embedding, arXiv:2104.09864; gated activation (SwiGLU), arXiv:2002.05202.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.kernels.library import Kernels


class RmsNorm:
    """RMSNorm of x [T, n] with `weight` [n], folded into `projections` (n inputs), if given, on the CPU in float32."""

    def __init__(self, weight: Tensor, eps: float, *projections: nn.Linear, kernels: Kernels | None = None) -> None:
        self._weight, self._eps, self._kernels = weight.detach(), eps, kernels
        self._folded = bool(projections) and _can_fold(weight)
        if self._folded:
            self._scaled_eps, scale = _split(weight.detach(), eps)
            for projection in projections:
                projection.weight = nn.Parameter(projection.weight.detach() * scale, requires_grad=False)
        elif kernels is not None and _can_fold(weight):
            self._scaled_eps, self._weight = _split(weight.detach(), eps)

    @property
    def kernel_parts(self) -> tuple[Tensor | None, float]:
        """What the kernel multiplies by, None where that is folded away, and its eps."""
        return None if self._folded else self._weight, self._scaled_eps

    def __call__(self, x: Tensor) -> Tensor:
        if self._kernels is not None and _can_fold(self._weight):
            return self._kernels.norm(x, self._scaled_eps, None if self._folded else self._weight)
        if not self._folded:
            return F.rms_norm(x, x.shape[-1:], self._weight, self._eps)
        return x * _inverse_norm(x, self._scaled_eps)


class QkNormRope:
    """Normalizes and rotates query and key heads x [T, heads, D] in place.

    RMSNorm with `weight` [heads, D], if the model has one, then rotary embedding by complex rotary [T, 1, D/2].
    """

    def __init__(self, weight: Tensor | None = None, eps: float = 0.0, kernels: Kernels | None = None) -> None:
        self._weight, self._eps, self._kernels, self._scaled_eps = weight, eps, kernels, 0.0
        self._folded = weight is not None and _can_fold(weight)
        if weight is not None and self._folded:
            self._scaled_eps, self._weight = _split(weight, eps)

    @property
    def kernel_parts(self) -> tuple[Tensor | None, float]:
        """The weights of the heads for the kernel, if the model has any, and its eps."""
        return self._weight, self._scaled_eps

    def __call__(self, x: Tensor, rotary: Tensor) -> None:
        if self._kernels is not None:
            self._kernels.qk_norm_rope(x, self._weight, rotary, self._scaled_eps)
            return
        if self._weight is not None:
            self._norm(x, self._weight)
        rotate(x, rotary)

    def _norm(self, x: Tensor, weight: Tensor) -> None:
        if self._folded:
            x.mul_(_inverse_norm(x, self._scaled_eps)).mul_(weight)
        else:
            x.copy_(F.rms_norm(x, x.shape[-1:], None, self._eps).mul_(weight))


def silu_and_mul(x: Tensor, kernels: Kernels | None = None) -> Tensor:
    """Return silu(x[:, :n]) * x[:, n:] [T, n] for x [T, 2 n]; the first half may be overwritten."""
    if kernels is not None:
        return kernels.silu_and_mul(x)
    left, right = x.chunk(2, dim=-1)
    return F.silu(left, inplace=True) * right


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Return rows [heads * D, ...] with the rotary pairs (i, i + D/2) of every head adjacent, as `rotate` expects."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def rotate(x: Tensor, rotary: Tensor) -> None:
    """Rotate the interleaved pairs of x [T, heads, D] in place, computed in float32, by complex rotary [T, 1, D/2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).mul_(rotary)
    if x.dtype != torch.float32:
        x.copy_(torch.view_as_real(pairs).flatten(-2))


def take_weights(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of a linear module, whose weight is replaced by an empty tensor."""
    weight: Tensor = linear.weight.detach()
    bias: Tensor | None = None if getattr(linear, "bias", None) is None else linear.bias.detach()
    linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return weight, bias


def join(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Concatenate weights [out, in] and biases [out] along `out`; either all parts have a bias or none."""
    biases = [bias for _, bias in parts if bias is not None]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None


def _can_fold(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _split(weight: Tensor, eps: float) -> tuple[float, Tensor]:
    """Return `eps` scaled for `_inverse_norm`, and the weight [..., n] times sqrt(n), which that function omits."""
    n = weight.shape[-1]
    return n * eps, (weight * math.sqrt(n)).contiguous()


def _inverse_norm(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(|x|^2 + eps) [..., 1] for x [..., n]."""
    inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(eps).rsqrt_()
    return inverse
