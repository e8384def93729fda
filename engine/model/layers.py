"""What the text stack and the vision tower share: norms, rotary embedding, the gated activation, and taking weights
over from a module.

On the CPU in float32, the weight of a norm and the root that makes it a root mean square are multiplied into what
follows it, which leaves fewer passes over each row; in half precision a product of two weights would be rounded twice.
There each part also has a kernel that goes over a row once (`kernels`); without, torch's operations do the same.
Sources: RMSNorm, arXiv:1910.07467; rotary embedding, arXiv:2104.09864; gated activation, arXiv:2002.05202.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.kernels.library import Kernels


class RmsNorm:
    """RMSNorm of x [T, n] by `weight` [n], which is multiplied into `projections` (n in) where that costs nothing."""

    def __init__(self, weight: Tensor, eps: float, *projections: nn.Linear, kernels: Kernels | None = None) -> None:
        self._weight, self._eps, self._kernels = weight.detach(), eps, kernels
        self._folded = bool(projections) and _folds(weight)
        if self._folded:
            self._root, scale = _split(weight.detach(), eps)
            for projection in projections:
                projection.weight = nn.Parameter(projection.weight.detach() * scale, requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._folded:
            return F.rms_norm(x, x.shape[-1:], self._weight, self._eps)
        if self._kernels is not None:
            return self._kernels.norm(x, self._root)
        return x * _inverse_norm(x, self._root)


class QkNormRope:
    """What becomes of the heads x [T, heads, D] of queries and keys, in place: RMSNorm by `weight` [heads, D], where
    there is one, then rotary embedding by complex rotary [T, 1, D/2].
    """

    def __init__(self, weight: Tensor | None = None, eps: float = 0.0, kernels: Kernels | None = None) -> None:
        self._weight, self._eps, self._kernels, self._root = weight, eps, kernels, 0.0
        self._folded = weight is not None and _folds(weight)
        if weight is not None and self._folded:
            self._root, self._weight = _split(weight, eps)

    def __call__(self, x: Tensor, rotary: Tensor) -> None:
        if self._kernels is not None:
            self._kernels.qk_norm_rope(x, self._weight, rotary, self._root)
            return
        if self._weight is not None:
            self._norm(x, self._weight)
        rotate(x, rotary)

    def _norm(self, x: Tensor, weight: Tensor) -> None:
        if self._folded:
            x.mul_(_inverse_norm(x, self._root)).mul_(weight)
        else:
            x.copy_(F.rms_norm(x, x.shape[-1:], None, self._eps).mul_(weight))


def silu_and_mul(x: Tensor, kernels: Kernels | None = None) -> Tensor:
    """Return silu(x[:, :n]) * x[:, n:] [T, n] of x [T, 2 n], whose first half may be overwritten."""
    if kernels is not None:
        return kernels.silu_and_mul(x)
    left, right = x.chunk(2, dim=-1)
    return F.silu(left, inplace=True) * right


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Lay rotary pairs (i, i + D/2) of every head side by side, as `rotate` takes them. rows: [heads * D, ...]."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def rotate(x: Tensor, rotary: Tensor) -> None:
    """Rotate the interleaved pairs of x [T, heads, D] in place, computed in float32, by complex rotary [T, 1, D/2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).mul_(rotary)
    if x.dtype != torch.float32:
        x.copy_(torch.view_as_real(pairs).flatten(-2))


def take_weights(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Take a layer's weight and bias away from its module."""
    weight: Tensor = linear.weight.detach()
    bias: Tensor | None = None if linear.bias is None else linear.bias.detach()
    linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return weight, bias


def join(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Return weights [out, in] and biases [out] as one of each; all parts have a bias, or none has."""
    biases = [bias for _, bias in parts if bias is not None]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None


def _folds(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _split(weight: Tensor, eps: float) -> tuple[float, Tensor]:
    """Return what `_inverse_norm` adds for `eps`, and the weight times the root it leaves out. weight: [..., n]."""
    n = weight.shape[-1]
    return n * eps, (weight * math.sqrt(n)).contiguous()


def _inverse_norm(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(|x|^2 + eps) [..., 1] of x [..., n]."""
    inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(eps).rsqrt_()
    return inverse
