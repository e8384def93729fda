"""Linear layers for the decoder: plain, packed for oneDNN, or both, by what a measurement on this machine says.

A packed layer keeps its weight in the blocked layout that oneDNN's matrix product reads, so that no call reorders it
again; stock `F.linear` on the CPU goes through MKL, which reads the plain layout. Which one is faster depends on the
processor and on the number of rows: one row is a matrix-vector product, which MKL may stream faster, while many rows
are up to twice as fast packed. Both are kept where each wins somewhere and the weights are small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MANY_ROWS = (8, 32)  # where packing is judged, together: decode steps
FEW_ROWS = (1, 2, 4)  # where the plain layout may win back
CLEARLY = 0.9  # of the packed time, or less: worth a second copy
PROBE_RUNS = 5
PROBE_WEIGHTS = 8  # layers' weights in turn, so that they come from memory as in a step
KEEP_BOTH_BYTES = 2 << 30  # of all linear weights; above it one layout has to do


@dataclass(frozen=True, slots=True)
class Layout:
    """Up to `plain_rows` rows go through the plain weight, more through the packed one; None: always plain."""

    plain_rows: int | None

    @property
    def packs(self) -> bool:
        """Whether there is a packed weight."""
        return self.plain_rows is not None


class Linear:
    """y = x W^T + b. weight: [out, in]; x: [rows, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout) -> None:
        self._bias = bias
        self._plain_rows = layout.plain_rows
        self._packed = _pack(weight) if layout.packs else weight
        self._plain = weight if self._plain_rows != 0 else None

    def __call__(self, x: Tensor) -> Tensor:
        if self._plain is not None and (self._plain_rows is None or x.shape[0] <= self._plain_rows):
            return F.linear(x, self._plain, self._bias)
        return _packed_product(x, self._packed, self._bias)


def choose_layout(weights: Sequence[Tensor], total_bytes: int) -> Layout:
    """Return the fastest layout on this machine. weights: some of the model's, [out, in]; total_bytes: of all."""
    first = weights[0]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.bfloat16):
        return Layout(None)
    if not torch.backends.mkldnn.is_available():
        return Layout(None)
    plain = [weight.contiguous() for weight in weights[:PROBE_WEIGHTS]]
    return judge(_seconds(_plain_product, plain), _seconds(_packed_product, [_pack(w) for w in plain]), total_bytes)


def judge(plain: dict[int, float], packed: dict[int, float], total_bytes: int) -> Layout:
    """Return the layout that seconds by number of rows speak for."""
    if sum(plain[rows] for rows in MANY_ROWS) <= sum(packed[rows] for rows in MANY_ROWS):
        return Layout(None)
    rows = 0
    for few in FEW_ROWS:
        if total_bytes > KEEP_BOTH_BYTES or plain[few] > CLEARLY * packed[few]:
            break
        rows = few
    return Layout(rows)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _plain_product(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def _seconds(product: Callable[[Tensor, Tensor], Tensor], weights: list[Tensor]) -> dict[int, float]:
    """Return the best time of `product` with all weights in turn, by number of rows: what else runs only adds."""
    width = weights[0].shape[1]
    seconds = {}
    for rows in (*FEW_ROWS, *MANY_ROWS):
        x = torch.ones(rows, width, dtype=weights[0].dtype)
        runs = []
        for _ in range(PROBE_RUNS):
            start = time.perf_counter()
            for weight in weights:
                product(x, weight)
            runs.append(time.perf_counter() - start)
        seconds[rows] = min(runs)
    return seconds
