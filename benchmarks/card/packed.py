"""Products with weights of 8 and 4 bits, by tiles, and in FP8, against cuBLAS in half precision, by number of tokens.

Every product runs over several weights of its shape, more than the L2 cache holds, in one CUDA graph. "error" is that
of the kernel alone, against float64 with the weights as they were quantized. The last tables name the fastest right
tiles of each weight, and what all products of a step take with them; those in FP8 without the head, never in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.card.linear import BYTES, MOST_HEAD_TOKENS, TINY, WEIGHTS, Weight
from benchmarks.card.record import Options, Row, Rows, is_right, told, told_if_none_ran
from benchmarks.card.timing import per_call
from benchmarks.harness.bandwidth import copy_bandwidth
from engine.loading.quantization import FP8_CAPABILITY
from engine.model.cuda.formats import BITS, MOST_PARTIALS, Quantized, quantize

if TYPE_CHECKING:
    from engine.model.cuda.fp8 import Fp8

TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 2048)
SECONDS = 0.004  # of one measurement
CHECKED_ROWS = 512  # of a weight, against float64
WRONG = 0.01  # relative to the product
WRONG_FP8 = 0.15  # whose tokens are rounded to three bits

Tiles = tuple[int, ...]  # BLOCK_N, BLOCK_K in bytes, SPLIT, STAGES, num_warps, and TOKENS at most
ONE_TOKEN: tuple[Tiles, ...] = (
    (16, 512, 1, 3, 4, 1),
    (16, 1024, 1, 3, 4, 1),
    (32, 256, 1, 4, 4, 1),
    (8, 512, 1, 4, 2, 1),
)
FEW_TOKENS: tuple[Tiles, ...] = (
    (64, 128, 1, 4, 4, 64),
    (32, 128, 1, 4, 4, 64),
    (128, 128, 1, 3, 8, 64),
    (64, 128, 4, 4, 4, 64),
)
MANY_TOKENS: tuple[Tiles, ...] = (
    (128, 128, 1, 3, 8, 128),
    (128, 128, 2, 3, 8, 128),
    (128, 128, 4, 3, 8, 128),
    (64, 128, 1, 3, 4, 128),
    (64, 128, 1, 4, 4, 64),
    (64, 128, 2, 4, 4, 64),
    (128, 128, 1, 2, 8, 128),
    (256, 128, 1, 2, 8, 128),
)
TINY_TILES: tuple[Tiles, ...] = ((64, 128, 1, 2, 4, 16),)


def packed(options: Options) -> Rows:
    """Yield the time of every product with every tiles, then the best of each, then their sums over a step."""
    if options.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    bandwidth = copy_bandwidth(options.device)
    every: list[tuple[Weight, Row]] = []
    for weight in (TINY[0], TINY[1]) if options.tiny else WEIGHTS:
        copies = options.pick(max(2, -(-BYTES // (2 * weight.out * weight.width))), 1)
        halves = [_random(weight.out, weight.width, options) * 0.02 for _ in range(copies)]
        for name in (*BITS, "fp8"):
            layers = [_quantized(name, half) for half in halves]
            for count in TOKENS[: options.pick(len(TOKENS), 2)]:
                if weight.name == "head" and (count > MOST_HEAD_TOKENS or name == "fp8"):
                    continue
                rows = []
                for row in _measured(weight, name, halves, layers, count, bandwidth, options):
                    rows.append(row)
                    yield from told("products", row, wrong_from(name))
                if name != "fp8" or _multiplies_fp8(options):
                    yield from told_if_none_ran("products", rows[1:])
                every.append((weight, _best(rows)))
                yield "best", every[-1][1]
    yield from (("all products of a step", row) for row in _steps(every))


def _multiplies_fp8(options: Options) -> bool:
    """Return whether the card does; Triton's interpreter does."""
    return options.device != "cuda" or torch.cuda.get_device_capability() >= FP8_CAPABILITY


def _measured(
    weight: Weight, name: str, halves: list[Tensor], layers: list[Quantized | Fp8], count: int, bandwidth: float,
    options: Options,
) -> Iterator[Row]:  # fmt: skip
    """Yield cuBLAS, then each tiles. "of bandwidth" counts what each reads and writes."""
    x = _random(count, weight.width, options)
    beside = 2 * count * (weight.out + weight.width)
    same: Row = {"weight": f"{weight.model} {weight.name}", "format": name, "T": count}
    seconds = per_call([partial(F.linear, x, half) for half in halves], options.device, SECONDS)
    yield same | _timed("cuBLAS", seconds, halves[0].nbytes + beside, bandwidth)
    exact = x.double() @ layers[0].dequantized()[:CHECKED_ROWS].double().t()
    for tiles in _tiles(name, count, weight.out, options):
        row = same | {"tiles": "/".join(map(str, tiles)) or "fp8"}
        try:
            calls = [_call(x, layer, tiles) for layer in layers]
            error = float((calls[0]()[:, :CHECKED_ROWS].double() - exact).norm() / exact.norm())
            seconds = per_call(calls, options.device, SECONDS)
            row |= _timed(str(row["tiles"]), seconds, layers[0].nbytes + beside, bandwidth) | {"error": error}
        except Exception as error:  # tiles that do not fit the card; the others go on
            row["refused"] = f"{type(error).__name__}: {error}"[:200]
        yield row


def _timed(tiles: str, seconds: float, moved: int, bandwidth: float) -> Row:
    return {"tiles": tiles, "us": seconds * 1e6, "of bandwidth": f"{moved / seconds / bandwidth:.0%}"}


def _tiles(name: str, count: int, rows: int, options: Options) -> tuple[Tiles, ...]:
    """Return what to try: a tile of 8 bits with several tokens is one group of 128 bytes, one of 4 bits half of it.

    rows: of the weight; a product is split only where the scratch has room for its parts.
    """
    if name == "fp8":
        return ((),)
    if options.tiny:
        return TINY_TILES
    listed = ONE_TOKEN if count == 1 else FEW_TOKENS if count <= 64 else MANY_TOKENS
    chosen = tuple(tiles for tiles in listed if tiles[2] == 1 or tiles[2] * count * rows <= MOST_PARTIALS)
    if name == "int8" or count == 1:
        return chosen
    return tuple((n, k // 2, *others) for n, k, *others in chosen)


def _call(x: Tensor, layer: Quantized | Fp8, tiles: Tiles) -> partial[Tensor]:
    from engine.model.cuda.packed_gemm import TOKEN_BLOCKS, packed_scratch

    if not isinstance(layer, Quantized):
        return partial(_product, x, layer, x.new_empty(len(x), layer.shape[0]), None, {})
    names = ("BLOCK_N", "BLOCK_K", "SPLIT", "STAGES", "num_warps", "TOKENS")
    meta = dict(zip(names, tiles, strict=True))
    meta["TOKENS"] = next(block for block in TOKEN_BLOCKS if block >= min(len(x), meta["TOKENS"]))
    return partial(_product, x, layer, x.new_empty(len(x), layer.shape[0]), packed_scratch(x.device), meta)


def _product(x: Tensor, layer: Quantized | Fp8, out: Tensor, scratch: Any, meta: dict[str, int]) -> Tensor:
    from engine.model.cuda.fp8 import fp8_linear
    from engine.model.cuda.packed_gemm import packed_linear

    if not isinstance(layer, Quantized):
        fp8_linear(x, layer, out, dependent=x.is_cuda)
    else:
        packed_linear(x, layer, out, scratch=scratch, dependent=x.is_cuda, meta=meta)
    return out


def _quantized(name: str, half: Tensor) -> Quantized | Fp8:
    from engine.model.cuda.fp8 import quantize_fp8

    return quantize_fp8([half], half.device) if name == "fp8" else quantize([half], name, half.device)


def wrong_from(name: str) -> float:
    """Return the greatest error that a format may have."""
    return WRONG_FP8 if name == "fp8" else WRONG


def _best(rows: list[Row]) -> Row:
    """Return the fastest tiles whose result is right, beside cuBLAS."""
    cublas, *others = rows
    right = [row for row in others if is_right(row, wrong_from(str(row["format"])))]
    fastest = min(right, key=lambda row: float(str(row["us"])), default=cublas)
    same = {name: cublas[name] for name in ("weight", "format", "T")}
    gain = float(str(cublas["us"])) / float(str(fastest["us"]))
    return same | {"tiles": fastest["tiles"], "us": fastest["us"], "cuBLAS us": cublas["us"], "gain": gain}


def _steps(best: list[tuple[Weight, Row]]) -> Iterator[Row]:
    """Yield what all products of a step take, where each was measured; only rows that sample have logits."""
    sums: dict[tuple[str, str, int], list[float]] = {}
    for weight, row in best:
        both = sums.setdefault((weight.model, str(row["format"]), int(str(row["T"]))), [0.0, 0.0])
        for at, name in enumerate(("us", "cuBLAS us")):
            both[at] += weight.count * float(str(row[name])) / 1e3
    for (model, name, count), (ours, cublas) in sums.items():
        yield {"model": model, "format": name, "T": count, "ms": ours, "float16 ms": cublas}


def _random(rows: int, columns: int, options: Options) -> Tensor:
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    return torch.randn(rows, columns, device=options.device, dtype=dtype)
