"""Linear layers for the decoder: plain or packed, by what a measurement on this machine says.

A packed layer keeps its weight in the blocked layout that a matrix product reads, so that no call reorders it again.
Two libraries pack: oneDNN, and MKL, whose layout is laid out for one number of rows but multiplies any (which is
checked before it is taken). Which is fastest depends on the processor and on the number of rows: a single row is a
matrix-vector product, which the plain layout may stream faster. Two copies are kept where each wins somewhere and the
weights are small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MANY_ROWS = (8, 32)  # where packing is judged, together: decode steps
FEW_ROWS = (1, 2, 4)  # where the plain layout may win back
CLEARLY = 0.9  # of the packed time, or less: worth a second copy
PROBE_RUNS = 7
PROBE_WEIGHTS = 8  # layers' weights in turn, so that they come from memory as in a step
KEEP_BOTH_BYTES = 2 << 30  # of all linear weights; above it one layout has to do
MKL_ROWS = 256  # packed for a full step: measured, no other number of rows loses by it
PLAIN = "plain"
CHECKED_ROWS = (1, 3, 32, MKL_ROWS + 1)
TOLERANCE = 1e-4  # of the product's norm

Product = Callable[[Tensor], Tensor]  # x [rows, in] -> x W^T + b [rows, out]
Pack = Callable[[Tensor, Tensor | None], Product]
Seconds = Mapping[int, float]  # of a product, by number of rows


@dataclass(frozen=True, slots=True)
class Layout:
    """`packing` names one of PACKINGS, None: always plain; up to `plain_rows` rows go through a plain copy."""

    packing: str | None = None
    plain_rows: int = 0


class Linear:
    """y = x W^T + b. weight: [out, in]; x: [rows, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout) -> None:
        self._plain_rows = layout.plain_rows
        plain = _plain(weight, bias)
        self._many = plain if layout.packing is None else PACKINGS[layout.packing](weight, bias)
        self._few = plain if layout.plain_rows else self._many

    def __call__(self, x: Tensor) -> Tensor:
        return self._few(x) if x.shape[0] <= self._plain_rows else self._many(x)


def choose_layout(weights: Sequence[Tensor], total_bytes: int) -> Layout:
    """Return the fastest layout on this machine. weights: some of the model's, [out, in]; total_bytes: of all."""
    first = weights[0]
    packings = _packings(first)
    if not packings:
        return Layout()
    probed = [weight.contiguous() for weight in weights[:PROBE_WEIGHTS]]
    packed = {name: [PACKINGS[name](weight, None) for weight in probed] for name in packings}
    right = {name: products for name, products in packed.items() if agrees(products[0], probed[0])}
    seconds = measure({PLAIN: [_plain(weight, None) for weight in probed], **right}, first)
    return judge(seconds.pop(PLAIN), seconds, total_bytes)


def judge(plain: Seconds, packed: Mapping[str, Seconds], total_bytes: int) -> Layout:
    """Return the layout that the measured times of the plain product and of each packing speak for."""
    many = {name: sum(seconds[rows] for rows in MANY_ROWS) for name, seconds in packed.items()}
    best = min(many, key=many.__getitem__, default=None)
    if best is None or sum(plain[rows] for rows in MANY_ROWS) <= many[best]:
        return Layout()
    rows = 0
    for few in FEW_ROWS:
        if total_bytes > KEEP_BOTH_BYTES or plain[few] > CLEARLY * packed[best][few]:
            break
        rows = few
    return Layout(best, rows)


def agrees(product: Product, weight: Tensor) -> bool:
    """Return whether a product without bias is the linear layer of `weight`, whatever the number of rows."""
    generator = torch.Generator().manual_seed(0)
    for rows in CHECKED_ROWS:
        x = torch.randn(rows, weight.shape[1], generator=generator).to(weight.dtype)
        right = F.linear(x, weight).float()
        allowed = TOLERANCE if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps
        if not (product(x).float() - right).norm() <= allowed * right.norm():
            return False
    return True


def _packings(weight: Tensor) -> list[str]:
    """Return the packings that this build of torch and the format of the weights allow."""
    if weight.device.type != "cpu":
        return []
    names = []
    if torch.backends.mkldnn.is_available() and weight.dtype in (torch.float32, torch.bfloat16):
        names.append("onednn")
    if torch.backends.mkl.is_available() and weight.dtype == torch.float32:
        names.append("mkl")
    return names


def _plain(weight: Tensor, bias: Tensor | None) -> Product:
    return lambda x: F.linear(x, weight, bias)


def _onednn(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: product(x, packed, bias, "none", [], "")


def _mkl(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), MKL_ROWS)
    shape = weight.new_empty(1).expand(weight.shape)  # all that the operator asks of the plain weight
    product = torch.ops.mkl._mkl_linear.default
    return lambda x: product(x, packed, shape, bias, x.shape[0])


PACKINGS: dict[str, Pack] = {"onednn": _onednn, "mkl": _mkl}


def measure(candidates: Mapping[str, Sequence[Product]], weight: Tensor) -> dict[str, dict[int, float]]:
    """Return the best time of each candidate's products in turn, by number of rows: what else runs only adds.

    The candidates take turns too, so that a busy moment of the machine falls on all of them.
    """
    seconds: dict[str, dict[int, float]] = {name: {} for name in candidates}
    for rows in (*FEW_ROWS, *MANY_ROWS):
        x = torch.ones(rows, weight.shape[1], dtype=weight.dtype)
        for _ in range(PROBE_RUNS):
            for name, products in candidates.items():
                start = time.perf_counter()
                for product in products:
                    product(x)
                taken = time.perf_counter() - start
                seconds[name][rows] = min(taken, seconds[name].get(rows, taken))
    return seconds
