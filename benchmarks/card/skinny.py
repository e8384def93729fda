"""The Triton products of few tokens against cuBLAS, by tiles: which are worth taking for which weight and T.

Every product runs over several weights of its shape, more than the L2 cache holds, in one CUDA graph. The products that
end a half of a layer add to the residual; the others write. The best tiles are measured again with what can be fused,
the norm or the activation before: "pair", two launches; "fused", one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.card.linear import BYTES, TINY, WEIGHTS, Weight
from benchmarks.card.record import Options, Row, Rows, is_right, told, told_if_none_ran
from benchmarks.card.timing import per_call
from benchmarks.harness.bandwidth import copy_bandwidth

TOKENS = (1, 2, 4, 8, 16)
FEW_ROWS = 8192  # of a weight that may be split
SECONDS = 0.004  # of one measurement
WRONG = 0.02  # relative to the greatest number of the product
EPS = 1e-6

Tiles = tuple[int, int, int, int, int, str]  # BLOCK_N, BLOCK_K, SPLIT, STAGES, num_warps, OVERLAP
ONE_TOKEN: tuple[Tiles, ...] = (
    (16, 512, 1, 3, 4, "tile"),
    (16, 512, 1, 3, 4, "prefetch"),
    (16, 512, 1, 3, 4, "off"),
    (16, 256, 1, 4, 4, "tile"),
    (8, 1024, 1, 3, 4, "tile"),
    (32, 256, 1, 4, 4, "tile"),
    (16, 512, 2, 3, 4, "tile"),
)
MORE_TOKENS: tuple[Tiles, ...] = (
    (64, 128, 1, 4, 4, "on"),
    (64, 128, 1, 4, 4, "prefetch"),
    (64, 128, 1, 4, 4, "off"),
    (32, 256, 1, 4, 4, "prefetch"),
    (16, 256, 1, 5, 1, "prefetch"),
    (64, 256, 1, 3, 4, "prefetch"),
    (64, 128, 2, 4, 4, "prefetch"),
    (64, 128, 4, 4, 4, "prefetch"),
)
TINY_TILES: tuple[Tiles, ...] = ((64, 32, 1, 2, 4, "tile"), (64, 16, 2, 2, 4, "off"))

Call = Callable[[Tensor], object]


def skinny(options: Options) -> Rows:
    """Yield the time of every product with every tiles, then the best of each, then their sums over a step."""
    if options.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    bandwidth = copy_bandwidth(options.device)
    best: list[tuple[Weight, Row]] = []
    for weight in TINY if options.tiny else WEIGHTS:
        copies = options.pick(max(4, -(-BYTES // (2 * weight.out * weight.width))), 2)
        layers = [_random(weight.out, weight.width, options) * 0.02 for _ in range(copies)]
        for count in TOKENS[: options.pick(len(TOKENS), 2)]:
            rows = []
            for row in _measured(weight, layers, count, bandwidth, options):
                rows.append(row)
                yield from told("products", row, WRONG)
            yield from told_if_none_ran("products", rows[1:])
            best.append((weight, _best(weight, layers, rows, options)))
        del layers
    for _, row in best:
        yield "best", row
    yield from (("step", row) for row in _steps(best))


def _measured(weight: Weight, layers: list[Tensor], count: int, bandwidth: float, options: Options) -> Iterator[Row]:
    """Yield cuBLAS, then each tiles."""
    moved = 2 * (weight.out * weight.width + count * (weight.out + weight.width))
    products = _Products(weight, count, options)
    expected = products.result(products.cublas(), layers[0])
    tiles: tuple[Tiles | None, ...] = ONE_TOKEN if count == 1 else MORE_TOKENS
    for choice in (None, *(TINY_TILES if options.tiny else tiles)):
        if choice is not None and choice[2] > 1 and weight.out > FEW_ROWS:
            continue
        row: Row = {"weight": f"{weight.model} {weight.name}", "T": count, "tiles": _named(choice)}
        try:
            call = products.cublas() if choice is None else products.skinny(choice)
            error = float((products.result(call, layers[0]) - expected).abs().max() / expected.abs().max())
            seconds = per_call([partial(call, layer) for layer in layers], options.device, SECONDS)
            row |= {"us": seconds * 1e6, "of bandwidth": f"{moved / seconds / bandwidth:.0%}", "error": error}
        except Exception as error:  # a tile that does not fit the card; the others go on
            row["refused"] = f"{type(error).__name__}: {error}"[:200]
        yield row


def _best(weight: Weight, layers: list[Tensor], rows: list[Row], options: Options) -> Row:
    """Return the fastest right tiles of a weight and T beside cuBLAS, alone and with what comes before the product."""
    cublas, *others = rows
    right = [row for row in others if is_right(row, WRONG)]
    row: Row = {"weight": cublas["weight"], "T": cublas["T"], "cuBLAS us": cublas["us"]}
    if not right:
        return row | {"tiles": "none"}
    found = min(right, key=lambda row: float(str(row["us"])))
    row |= {"us": found["us"], "of bandwidth": found["of bandwidth"], "tiles": found["tiles"]}
    tiles = next(tiles for tiles in (*ONE_TOKEN, *MORE_TOKENS, *TINY_TILES) if _named(tiles) == found["tiles"])
    products = _Products(weight, int(str(cublas["T"])), options)
    for name, call in products.fused(tiles).items():
        row[name] = per_call([partial(call, layer) for layer in layers], options.device, SECONDS) * 1e6
    return row


def _steps(best: list[tuple[Weight, Row]]) -> Iterator[Row]:
    """Yield the milliseconds of all products of a step, by cuBLAS and with the best of both."""
    for model, count in dict.fromkeys((weight.model, row["T"]) for weight, row in best):
        rows = [(weight.count, row) for weight, row in best if (weight.model, row["T"]) == (model, count)]
        cublas = sum(times * float(str(row["cuBLAS us"])) for times, row in rows) / 1e3
        both = sum(
            times * min(float(str(row[key])) for key in ("cuBLAS us", "us") if key in row) for times, row in rows
        )
        yield {"model": model, "T": count, "cuBLAS ms": cublas, "best ms": both / 1e3}


class _Products:
    """The ways to compute one product, each a function of the weight."""

    def __init__(self, weight: Weight, count: int, options: Options) -> None:
        from engine.model.cuda import rows, skinny  # not before Triton is told to interpret

        self._rows, self._skinny = rows, skinny
        self._adds, self._normed = weight.name in ("out", "down"), weight.name in ("qkv", "gate_up")
        self._activates = weight.name == "down"
        self._x, self._both = _random(count, weight.width, options), _random(count, 2 * weight.width, options)
        self._norm, self._out = self._x[0].clone(), _random(count, weight.out, options)
        self._active, self._bias = (
            torch.empty_like(self._x),
            _random(1, weight.out, options)[0] if weight.bias else None,
        )
        self._scratch = skinny.Scratch.empty(min(weight.out, FEW_ROWS), self._x.device)

    def result(self, call: Call, weight: Tensor) -> Tensor:
        """Return what a way computes, in float32."""
        self._out.zero_()
        found = call(weight)
        return (found if isinstance(found, Tensor) else self._out).float()

    def cublas(self, x: Tensor | None = None) -> Call:
        """Return cuBLAS's way."""
        x = self._x if x is None else x
        if self._adds:
            return lambda weight: self._out.addmm_(x, weight.t())
        return lambda weight: F.linear(x, weight, self._bias)

    def skinny(self, tiles: Tiles, x: Tensor | None = None, norm: Tensor | None = None) -> Call:
        """Return the kernel's way."""
        x, meta = self._x if x is None else x, _meta(tiles)
        if self._adds:
            return lambda weight: self._skinny.skinny_add(x, weight, self._out, self._scratch, meta)
        return lambda weight: self._skinny.skinny_linear(
            x, weight, self._bias, norm, EPS, self._out, self._scratch, meta
        )  # fmt: skip

    def fused(self, tiles: Tiles) -> dict[str, Call]:
        """Return what comes before the product with the product: apart with cuBLAS, apart and fused with the kernel."""
        if self._normed:
            before, x = partial(self._rows.rms_norm, self._x, self._norm, EPS, self._active), self._active
            fused = {} if tiles[2] > 1 else {"fused us": self.skinny(tiles, norm=self._norm)}
        elif self._activates:
            before, x = partial(self._rows.silu_and_mul, self._both, self._active), self._active
            fused = {"fused us": self.skinny(tiles, self._both)}
        else:
            return {}
        apart = {"pair cuBLAS us": self.cublas(x), "pair us": self.skinny(tiles, x)}
        return {name: _after(before, call) for name, call in apart.items()} | fused


def _after(before: Callable[[], object], call: Call) -> Call:
    def both(weight: Tensor) -> None:
        before()
        call(weight)

    return both


def _meta(tiles: Tiles) -> dict[str, Any]:
    names = ("BLOCK_N", "BLOCK_K", "SPLIT", "STAGES", "num_warps", "OVERLAP")
    return dict(zip(names, tiles, strict=True))


def _named(tiles: Tiles | None) -> str:
    """Return rows x columns, parts, stages, warps and overlap in short."""
    if tiles is None:
        return "cuBLAS"
    rows, columns, split, stages, warps, overlap = tiles
    return f"{rows}x{columns}/{split} s{stages} w{warps} {overlap}"


def _random(rows: int, columns: int, options: Options) -> Tensor:
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    return torch.randn(rows, columns, device=options.device, dtype=dtype)
