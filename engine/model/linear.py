"""Linear layers. On the CPU their weights are kept plain or packed, whichever is fastest as measured on this machine.

A packed layer keeps its weight in the blocked layout that a GEMM reads, so no call reorders it again. There are three
packings: that of `kernels`, oneDNN's, and MKL's, which is packed for one number of rows but multiplies any (verified
before use). Which one is fastest depends on the processor and on the number of rows: a decode step is bound by memory
bandwidth, a prefill step by arithmetic. If no layout is good at both and the weights are small, two copies are kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import StartError
from engine.model.kernels.library import GemmArguments, Kernels, PackedWeight
from engine.model.kernels.packed import FORMATS, Arena, Packing

PROBED_ROWS = (1, 4, 16, 64, 256)
PROBE_RUNS = 5
PROBE_WEIGHTS = 8  # weights of different layers, so that they are read from memory as in a step
PROBE_BYTES = 64 << 20  # limit of their total size; the first is always probed
MIN_GAIN = 0.03  # relative time saved at one number of rows that justifies a second copy
KEEP_BOTH_BYTES = 2 << 30  # size of all linear weights above which only one layout is kept
MKL_ROWS = 256  # packed for a full step; measured: no other number of rows is slower for it
CHECKED_ROWS = (1, 3, 32, MKL_ROWS + 1)
TOLERANCE = 1e-4  # relative to the norm of the result
# oneDNN compiles a GEMM for each shape of a weight and each number of rows, within a millisecond and a half megabyte.
# It and torch each keep the last 1,024 of them, 1.9 GB for five shapes and all numbers up to 512; of these, 17 MB.
# Steps of prompts seldom have as many rows as one before, so that 256 make no more answers a second than 32.
KEPT_PRIMITIVES = 32
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read at the first GEMM
    os.putenv(_name, str(KEPT_PRIMITIVES))


class Gemm(Protocol):
    """Computes x W^T + b [rows, out] for x [rows, in]; with add_to [rows, out], adds it there and returns add_to."""

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor: ...


Pack = Callable[[Tensor, Tensor | None], Gemm]
Seconds = Mapping[int, float]  # time of one GEMM by number of rows


def plain(weight: Tensor, bias: Tensor | None) -> Gemm:
    """Return the GEMM over the weight [out, in] as it is."""
    return _with_add(lambda x: F.linear(x, weight, bias))


@dataclass(frozen=True, slots=True)
class Layout:
    """How weights are packed: one way, or two, of which `few` is used for up to `few_rows` rows."""

    many: Pack = plain
    few: Pack = plain
    few_rows: int = 0


def packed(packing: Packing) -> Layout:
    """Return the layout of weights that the kernels keep in fewer bits than float32."""
    return Layout(packing)


def packing_of(dtype: torch.dtype, quant: str, device: torch.device, kernels: Kernels | None) -> Packing | None:
    """Return what packs the weights of a model in fewer bits than float32, None where they are kept as they are.

    quant: `none`, or the format of the linear layers' weights. Raises StartError where the device has no such format.
    """
    if device.type == "cpu" and kernels is not None:
        name = quant if quant != "none" else str(dtype).removeprefix("torch.")
        return kernels.packing(name) if name in FORMATS else None
    if quant != "none":
        raise StartError(
            f"Weights in {quant} are computed on the processor, by kernels of the service: on {device.type} "
            + ("there are none." if device.type != "cpu" else "they need x86-64 with AVX2, and gcc.")
        )
    return None


class Linear:
    """Computes y = x W^T + b for x [rows, in] and weight [out, in]; with add_to [rows, out], adds y there in place."""

    def __init__(self, weight: Tensor, bias: Tensor | None, layout: Layout) -> None:
        self._few_rows = layout.few_rows
        self._many = layout.many(weight, bias)
        self._few = layout.few(weight, bias) if layout.few_rows else self._many

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        return self._gemm(x.shape[0])(x, add_to)

    def gemm_arguments(self, rows: int) -> GemmArguments | None:
        """Return what a step of all layers with so many rows reads of it, None if another library multiplies them."""
        arguments: GemmArguments | None = getattr(self._gemm(rows), "gemm_arguments", None)
        return arguments

    def _gemm(self, rows: int) -> Gemm:
        return self._few if rows <= self._few_rows else self._many


def choose_layout(weights: Sequence[Tensor], total_bytes: int, kernels: Kernels | None = None) -> Layout:
    """Return the fastest layout on this machine.

    weights: a sample of the linear weights [out, in]; total_bytes: size of all of them.
    """
    probed = _probe_sample(weights)
    candidates = _candidates(probed[0], kernels)
    if len(candidates) == 1:
        return Layout()
    gemms = {name: [pack(weight, None) for weight in probed] for name, pack in candidates.items()}
    correct = {name: packed for name, packed in gemms.items() if is_correct(packed[0], probed[0])}
    many, few, few_rows = select(measure(correct, probed), total_bytes)
    chosen = _candidates(probed[0], kernels)  # anew: the memory of those that were measured is freed
    return Layout(chosen[many], chosen[few], few_rows)


def _candidates(weight: Tensor, kernels: Kernels | None) -> dict[str, Pack]:
    return {"plain": plain} | packings(weight, kernels)


def select(seconds: Mapping[str, Seconds], total_bytes: int) -> tuple[str, str, int]:
    """Return the packing for many rows, the packing for few rows, and the largest number of rows that counts as few.

    Every probed number of rows has the same weight: its time relative to the fastest packing. A second layout is used
    only if it saves more than MIN_GAIN over the best single one.
    """
    best = {rows: min(times[rows] for times in seconds.values()) for rows in PROBED_ROWS}

    def loss(choice: tuple[str, str, int]) -> float:
        many, few, few_rows = choice
        return sum(seconds[few if rows <= few_rows else many][rows] / best[rows] for rows in PROBED_ROWS)

    single = min(((name, name, 0) for name in seconds), key=loss)
    pair = min(((many, few, cut) for many in seconds for few in seconds for cut in PROBED_ROWS[:-1]), key=loss)
    return pair if loss(single) - loss(pair) > MIN_GAIN and total_bytes <= KEEP_BOTH_BYTES else single


def is_correct(gemm: Gemm, weight: Tensor) -> bool:
    """Return whether a GEMM without bias equals `F.linear` with `weight` at every number of rows in CHECKED_ROWS."""
    generator = torch.Generator().manual_seed(0)
    for rows in CHECKED_ROWS:
        x = torch.randn(rows, weight.shape[1], generator=generator, dtype=torch.float32).to(weight.dtype)
        expected = F.linear(x, weight).float()
        allowed = TOLERANCE if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps
        if not (gemm(x).float() - expected).norm() <= allowed * expected.norm():  # false for NaN too
            return False
    return True


def packings(weight: Tensor, kernels: Kernels | None) -> dict[str, Pack]:
    """Return the packings available in this build of torch for the device and dtype of the weights."""
    if weight.device.type != "cpu":
        return {}
    allowed: dict[str, Pack] = {}
    if weight.dtype in (torch.float32, torch.bfloat16) and _onednn_packs(weight.dtype):
        allowed["onednn"] = _onednn
    if torch.backends.mkl.is_available() and weight.dtype == torch.float32:
        allowed["mkl"] = _mkl
    if kernels is not None and weight.dtype == torch.float32:
        allowed["kernels"] = _kernels_packing(kernels)
    return allowed


def _onednn_packs(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has GEMMs of a dtype on this processor: of bfloat16 it has none with AVX2 alone."""
    supported = dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(torch.backends.mkldnn.is_available() and supported)


def measure(candidates: Mapping[str, Sequence[Gemm]], weights: Sequence[Tensor]) -> dict[str, dict[int, float]]:
    """Return the shortest time of each candidate by number of rows, in seconds for one pass over all `weights`.

    The shortest, since other load on the machine only adds time. The candidates alternate, so that a load peak affects
    all of them.
    """
    seconds: dict[str, dict[int, float]] = {name: {} for name in candidates}
    for rows in PROBED_ROWS:
        inputs = [torch.ones(rows, weight.shape[1], dtype=weight.dtype) for weight in weights]
        for _ in range(PROBE_RUNS):
            for name, gemms in candidates.items():
                start = time.perf_counter()
                for gemm, x in zip(gemms, inputs, strict=True):
                    gemm(x)
                elapsed = time.perf_counter() - start
                seconds[name][rows] = min(elapsed, seconds[name].get(rows, elapsed))
    return seconds


def _probe_sample(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the first of `weights` within the limits of a probe, at least one."""
    count = max(1, min(PROBE_WEIGHTS, PROBE_BYTES // weights[0].nbytes if weights[0].nbytes else 1))
    return [weight.contiguous() for weight in weights[:count]]


def _with_add(gemm: Callable[[Tensor], Tensor]) -> Gemm:
    def call(x: Tensor, add_to: Tensor | None = None) -> Tensor:
        return gemm(x) if add_to is None else add_to.add_(gemm(x))

    return call


def _onednn(weight: Tensor, bias: Tensor | None) -> Gemm:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    gemm = torch.ops.mkldnn._linear_pointwise.default
    return _with_add(lambda x: gemm(x, packed, bias, "none", [], ""))


def _mkl(weight: Tensor, bias: Tensor | None) -> Gemm:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), MKL_ROWS)
    shape = weight.new_empty(1).expand(weight.shape)  # the operator reads only the shape of the plain weight
    gemm = torch.ops.mkl._mkl_linear.default
    return _with_add(lambda x: gemm(x, packed, shape, bias, x.shape[0]))


def _kernels_packing(kernels: Kernels) -> Pack:
    arena = Arena()  # of what is packed for one purpose, so that it is freed together
    return lambda weight, bias: _Panels(kernels, kernels.pack(weight, bias, arena))


class _Panels:
    def __init__(self, kernels: Kernels, weight: PackedWeight) -> None:
        self._kernels, self._weight, self.gemm_arguments = kernels, weight, weight.gemm_arguments

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        return self._kernels.gemm(x, self._weight, add_to)
