"""The linear layers of both models by number of tokens: the ceiling of a step, since a step is mostly these.

Every product runs over several weights of its shape, more than the L2 cache holds, in one CUDA graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.card.timing import Work, per_call
from benchmarks.harness.bandwidth import copy_bandwidth

TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 512, 1024, 2048)
MOST_HEAD_TOKENS = 256  # only rows that sample have logits
WRONG = 0.01  # relative to the greatest number of a product
BYTES = 400_000_000  # of the weights that one graph reads


@dataclass(frozen=True, slots=True)
class Weight:
    """A linear layer of a model: out features, in features, how many of it one step has, and whether it adds a bias."""

    model: str
    name: str
    out: int
    width: int
    count: int
    bias: bool = False


WEIGHTS = (
    Weight("8B", "qkv", 6144, 4096, 36),
    Weight("8B", "out", 4096, 4096, 36),
    Weight("8B", "gate_up", 24_576, 4096, 36),
    Weight("8B", "down", 4096, 12_288, 36),
    Weight("8B", "head", 151_936, 4096, 1),
    Weight("7B", "qkv", 4608, 3584, 28, bias=True),
    Weight("7B", "out", 3584, 3584, 28),
    Weight("7B", "gate_up", 37_888, 3584, 28),
    Weight("7B", "down", 3584, 18_944, 28),
    Weight("7B", "head", 152_064, 3584, 1),
)
TINY = (Weight("8B", "qkv", 96, 64, 2), Weight("8B", "head", 128, 64, 1), Weight("7B", "qkv", 64, 32, 2, bias=True))
VARIANTS = ("default", "cublas", "cublaslt", "full precision sums", "added in place")


def linear(options: Options) -> Rows:
    """Yield the time of each product, then of all products of a step, and whether adding in place is exact."""
    bandwidth = copy_bandwidth(options.device)
    weights, tokens = (TINY, TOKENS[:2]) if options.tiny else (WEIGHTS, TOKENS)
    sums: dict[tuple[str, str, int], float] = {}
    for weight in weights:
        copies = options.pick(max(2, -(-BYTES // (2 * weight.out * weight.width))), 2)
        layers = [_random(weight.out, weight.width, options) * 0.02 for _ in range(copies)]
        bias = _random(1, weight.out, options)[0] if weight.bias else None
        for count in tokens:
            if weight.name == "head" and count > MOST_HEAD_TOKENS:
                continue
            for variant in VARIANTS:
                if variant == "added in place" and weight.name not in ("out", "down"):
                    continue
                with _setting(variant, options.device):
                    seconds = per_call(_calls(layers, bias, count, variant, options), options.device)
                key = (weight.model, variant, count)
                sums[key] = sums.get(key, 0.0) + weight.count * seconds
                yield "products", _row(weight, count, variant, seconds, bandwidth)
        del layers
    for (model, variant, count), seconds in sums.items():
        if variant != "added in place":
            yield "all products of a step", {"model": model, "variant": variant, "tokens": count, "ms": seconds * 1e3}
    yield from _in_place(options)


def _calls(layers: list[Tensor], bias: Tensor | None, count: int, variant: str, options: Options) -> list[Work]:
    x = _random(count, layers[0].shape[1], options)
    if variant != "added in place":
        return [partial(F.linear, x, weight, bias) for weight in layers]
    target = torch.zeros(count, layers[0].shape[0], device=x.device, dtype=x.dtype)
    return [partial(target.addmm_, x, weight.t()) for weight in layers]


def _row(weight: Weight, count: int, variant: str, seconds: float, bandwidth: float) -> Row:
    moved = 2 * (weight.out * weight.width + count * (weight.out + weight.width))
    return {
        "weight": f"{weight.model} {weight.name}",
        "tokens": count,
        "variant": variant,
        "us": seconds * 1e6,
        "of the bandwidth": f"{moved / seconds / bandwidth:.0%}",
        "TFLOP/s": 2 * count * weight.out * weight.width / seconds / 1e12,
    }


@contextlib.contextmanager
def _setting(variant: str, device: str) -> Iterator[None]:
    """Apply a variant's setting of torch; the settings found are restored."""
    matmul = torch.backends.cuda.matmul
    library, reduced = None, matmul.allow_fp16_reduced_precision_reduction
    if device == "cuda":
        library = torch.backends.cuda.preferred_blas_library()
        if variant in ("cublas", "cublaslt"):
            torch.backends.cuda.preferred_blas_library(variant)
    if variant == "full precision sums":
        matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction = reduced
        if library is not None:
            torch.backends.cuda.preferred_blas_library(library)


def _in_place(options: Options) -> Rows:
    """Compare adding to the residual within the product with adding after it; both against float64."""
    out, width = options.pick(4096, 64), options.pick(12_288, 96)
    weight = _random(out, width, options) * 0.02
    for count in (1, 8, 64, 256)[: options.pick(4, 1)]:
        x, residual = _random(count, width, options), _random(count, out, options)
        exact = residual.double() + x.double() @ weight.double().t()
        after = residual + F.linear(x, weight)
        within = residual.clone().addmm_(x, weight.t())
        yield (
            "adding in place",
            {
                "tokens": count,
                "greatest difference of both": float((after - within).abs().max()),
                "error, added after": float((after.double() - exact).abs().max()),
                "error, added in place": (error := float((within.double() - exact).abs().max())),
            },
        )
        if not error <= WRONG * float(exact.abs().max()):
            yield problem(f"adding in place: {count} tokens")


def _random(rows: int, columns: int, options: Options) -> Tensor:
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    return torch.randn(rows, columns, device=options.device, dtype=dtype)
