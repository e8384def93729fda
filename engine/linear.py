"""Linear layers for the decoder: plain, or packed for oneDNN where a measurement on this machine says that it pays.

A packed layer keeps its weight in the blocked layout that oneDNN's matrix product reads, so that no call reorders it
again; stock `F.linear` on the CPU goes through MKL, which reads the plain layout each time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The row count at which packing is judged: a typical decode step.
PROBE_ROWS = 32
PROBE_RUNS = 7


class PlainLinear:
    """y = x W^T + b over `F.linear`. weight: [out, in]; x: [rows, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, silu: bool = False) -> None:
        self._weight, self._bias, self._silu = weight, bias, silu

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self._weight, self._bias)
        return F.silu(y, inplace=True) if self._silu else y


class PackedLinear:
    """The same over a weight packed for oneDNN, with SiLU fused into the product where asked for."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, silu: bool = False) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias, self._post_op = bias, "swish" if silu else "none"

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._post_op, [], "")
        return y


Linear = PlainLinear | PackedLinear


def packing_pays(weight: Tensor) -> bool:
    """Return whether the packed product beats the plain one on this machine. weight: [out, in], one of the model's."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.ones(PROBE_ROWS, weight.shape[1], dtype=weight.dtype)
    plain, packed = PlainLinear(weight), PackedLinear(weight)
    return _median_seconds(packed, x) < _median_seconds(plain, x)


def _median_seconds(linear: Callable[[Tensor], Tensor], x: Tensor) -> float:
    linear(x)
    seconds = []
    for _ in range(PROBE_RUNS):
        start = time.perf_counter()
        linear(x)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
