"""What the text stack and the vision tower share: norms, rotary embedding, and taking weights over from a module.

On the CPU in float32, the weight of a norm and the root that makes it a root mean square are multiplied into what
follows it, which leaves fewer passes over each row; in half precision a product of two weights would be rounded twice.
Sources: RMSNorm, arXiv:1910.07467; rotary embedding, arXiv:2104.09864.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RmsNorm:
    """RMSNorm of x [T, n] by `weight` [n], which is multiplied into `projections` (n in) where that costs nothing."""

    def __init__(self, weight: Tensor, eps: float, *projections: nn.Linear) -> None:
        self._weight, self._eps = weight.detach(), eps
        self._folded = bool(projections) and _folds(weight)
        if self._folded:
            self._root, scale = _split(weight.detach(), eps)
            for projection in projections:
                projection.weight = nn.Parameter(projection.weight.detach() * scale, requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        if self._folded:
            return x * _inverse_norm(x, self._root)
        return F.rms_norm(x, x.shape[-1:], self._weight, self._eps)


class HeadNorm:
    """RMSNorm of each head of x [T, heads, D], in place, by `weight` [heads, D]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps, self._folded = weight, eps, _folds(weight)
        if self._folded:
            self._root, self._weight = _split(weight, eps)

    def __call__(self, x: Tensor) -> None:
        if self._folded:
            x.mul_(_inverse_norm(x, self._root)).mul_(self._weight)
        else:
            x.copy_(F.rms_norm(x, x.shape[-1:], None, self._eps).mul_(self._weight))


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Lay rotary pairs (i, i + D/2) of every head side by side, as `rotate` takes them. rows: [heads * D, ...]."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def rotate(x: Tensor, rotary: Tensor) -> None:
    """Rotate the interleaved pairs of x [T, heads, D] in place, computed in float32, by complex rotary [T, 1, D/2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).mul_(rotary)
    if x.dtype != torch.float32:
        x.copy_(torch.view_as_real(pairs).flatten(-2))


def release(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Take a layer's weight and bias away from its module."""
    weight: Tensor = linear.weight.detach()
    bias: Tensor | None = None if linear.bias is None else linear.bias.detach()
    linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return weight, bias


def _folds(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _split(weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what `_inverse_norm` adds for `eps`, and the weight times the root it leaves out. weight: [..., n]."""
    n = weight.shape[-1]
    return torch.tensor(math.sqrt(n * eps)), weight * math.sqrt(n)


def _inverse_norm(x: Tensor, root: Tensor) -> Tensor:
    """Return 1 / sqrt(|x|^2 + root^2) [..., 1] of x [..., n]."""
    inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(root).reciprocal_()
    return inverse
