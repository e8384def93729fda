"""Linear layers on the CPU: plain or packed, by what a measurement on this machine says.

A packed layer keeps its weight in the blocked layout that a matrix product reads, so that no call reorders it again.
There are three packings: the engine's own (`kernels`), oneDNN's, and MKL's, whose layout is laid out for one number of
rows but multiplies any (which is checked before it is taken). Which is fastest depends on the processor and on the
number of rows: a decode step is bound by what it reads of the weights, a prompt's by arithmetic. Where no layout is
good at both, two copies are kept if the weights are small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.kernels.library import Kernels

PROBED_ROWS = (1, 4, 16, 64, 256)
PROBE_RUNS = 5
PROBE_WEIGHTS = 8  # layers' weights in turn, so that they come from memory as in a step
PROBE_BYTES = 64 << 20  # of them together, but for the first
CLEARLY = 0.03  # of the time of one number of rows saved: worth a second copy
KEEP_BOTH_BYTES = 2 << 30  # of all linear weights; above it one layout has to do
MKL_ROWS = 256  # packed for a full step: measured, no other number of rows loses by it
CHECKED_ROWS = (1, 3, 32, MKL_ROWS + 1)
TOLERANCE = 1e-4  # of the product's norm


class Gemm(Protocol):
    """x W^T + b [rows, out] of x [rows, in]; with add_to [rows, out], added to it in place and returned."""

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor: ...


Pack = Callable[[Tensor, Tensor | None], Gemm]
Seconds = Mapping[int, float]  # of a product, by number of rows


def plain(weight: Tensor, bias: Tensor | None) -> Gemm:
    """Return the product with the weight [out, in] as it is."""
    return _adding(lambda x: F.linear(x, weight, bias))


@dataclass(frozen=True, slots=True)
class Layout:
    """How weights are laid out: one way, or two, of which `few` is for no more than `few_rows` rows."""

    many: Pack = plain
    few: Pack = plain
    few_rows: int = 0


class Linear:
    """y = x W^T + b. weight: [out, in]; x: [rows, in]; with add_to [rows, out], y is added to it in place."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout) -> None:
        self._few_rows = layout.few_rows
        self._many = layout.many(weight, bias)
        self._few = layout.few(weight, bias) if layout.few_rows else self._many

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        return (self._few if x.shape[0] <= self._few_rows else self._many)(x, add_to)


def choose_layout(weights: Sequence[Tensor], total_bytes: int, kernels: Kernels | None = None) -> Layout:
    """Return the fastest layout on this machine. weights: some of the model's, [out, in]; total_bytes: of all."""
    probed = _some(weights)
    candidates = packings(probed[0], kernels)
    if not candidates:
        return Layout()
    candidates["plain"] = plain
    gemms = {name: [pack(weight, None) for weight in probed] for name, pack in candidates.items()}
    right = {name: made for name, made in gemms.items() if agrees(made[0], probed[0])}
    many, few, few_rows = judge(measure(right, probed), total_bytes)
    return Layout(candidates[many], candidates[few], few_rows)


def judge(seconds: Mapping[str, Seconds], total_bytes: int) -> tuple[str, str, int]:
    """Return the names for many and for few rows, and how many are few, that the measured times speak for.

    Each probed number of rows counts the same: its time over the fastest. Two layouts are worth their memory where they
    save clearly more than the best one alone.
    """
    best = {rows: min(times[rows] for times in seconds.values()) for rows in PROBED_ROWS}

    def loss(choice: tuple[str, str, int]) -> float:
        many, few, few_rows = choice
        return sum(seconds[few if rows <= few_rows else many][rows] / best[rows] for rows in PROBED_ROWS)

    single = min(((name, name, 0) for name in seconds), key=loss)
    pair = min(((many, few, cut) for many in seconds for few in seconds for cut in PROBED_ROWS[:-1]), key=loss)
    return pair if loss(single) - loss(pair) > CLEARLY and total_bytes <= KEEP_BOTH_BYTES else single


def agrees(gemm: Gemm, weight: Tensor) -> bool:
    """Return whether a product without bias is the linear layer of `weight`, whatever the number of rows."""
    generator = torch.Generator().manual_seed(0)
    for rows in CHECKED_ROWS:
        x = torch.randn(rows, weight.shape[1], generator=generator).to(weight.dtype)
        right = F.linear(x, weight).float()
        allowed = TOLERANCE if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps
        if not (gemm(x).float() - right).norm() <= allowed * right.norm():
            return False
    return True


def packings(weight: Tensor, kernels: Kernels | None) -> dict[str, Pack]:
    """Return the packings that this build of torch and the format of the weights allow."""
    if weight.device.type != "cpu":
        return {}
    allowed: dict[str, Pack] = {}
    if torch.backends.mkldnn.is_available() and weight.dtype in (torch.float32, torch.bfloat16):
        allowed["onednn"] = _onednn
    if torch.backends.mkl.is_available() and weight.dtype == torch.float32:
        allowed["mkl"] = _mkl
    if kernels is not None and weight.dtype == torch.float32:
        allowed["kernels"] = _own(kernels)
    return allowed


def measure(candidates: Mapping[str, Sequence[Gemm]], weights: Sequence[Tensor]) -> dict[str, dict[int, float]]:
    """Return the best time of each candidate's products in turn, by number of rows: what else runs only adds.

    The candidates take turns too, so that a busy moment of the machine falls on all of them.
    """
    seconds: dict[str, dict[int, float]] = {name: {} for name in candidates}
    for rows in PROBED_ROWS:
        inputs = [torch.ones(rows, weight.shape[1], dtype=weight.dtype) for weight in weights]
        for _ in range(PROBE_RUNS):
            for name, gemms in candidates.items():
                start = time.perf_counter()
                for gemm, x in zip(gemms, inputs, strict=True):
                    gemm(x)
                taken = time.perf_counter() - start
                seconds[name][rows] = min(taken, seconds[name].get(rows, taken))
    return seconds


def _some(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the first of `weights` that a probe can afford, at least one."""
    count = max(1, min(PROBE_WEIGHTS, PROBE_BYTES // weights[0].nbytes if weights[0].nbytes else 1))
    return [weight.contiguous() for weight in weights[:count]]


def _adding(gemm: Callable[[Tensor], Tensor]) -> Gemm:
    def call(x: Tensor, add_to: Tensor | None = None) -> Tensor:
        return gemm(x) if add_to is None else add_to.add_(gemm(x))

    return call


def _onednn(weight: Tensor, bias: Tensor | None) -> Gemm:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    gemm = torch.ops.mkldnn._linear_pointwise.default
    return _adding(lambda x: gemm(x, packed, bias, "none", [], ""))


def _mkl(weight: Tensor, bias: Tensor | None) -> Gemm:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), MKL_ROWS)
    shape = weight.new_empty(1).expand(weight.shape)  # all that the operator asks of the plain weight
    gemm = torch.ops.mkl._mkl_linear.default
    return _adding(lambda x: gemm(x, packed, shape, bias, x.shape[0]))


def _own(kernels: Kernels) -> Pack:
    def pack(weight: Tensor, bias: Tensor | None) -> Gemm:
        packed = kernels.pack(weight, bias)
        return lambda x, add_to=None: kernels.gemm(x, packed, add_to)

    return pack
