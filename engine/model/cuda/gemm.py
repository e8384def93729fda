"""The GEMMs of a step with the weights: of cuBLAS, or for few tokens of `skinny` where that was measured faster.

Those with quantized weights are of `packed_gemm` or of `fp8`, for any number of tokens.

One token takes the norm or the activation before a GEMM along into it. For more, the norm stays a kernel of its own:
its weight would be multiplied anew by each program, and tensor cores wait for it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.cuda.formats import Quantized, Weight
from engine.model.cuda.fp8 import Fp8, fp8_linear
from engine.model.cuda.packed_gemm import packed_linear, packed_scratch
from engine.model.cuda.rows import rms_norm, silu_and_mul
from engine.model.cuda.skinny import MOST_TOKENS, Scratch, skinny_add, skinny_linear
from engine.model.cuda.tuning import Tuning, multiprocessors_of
from engine.model.cuda.weights import DecoderShape

Meta = dict[str, Any]


def _meta(block_n: int, block_k: int, split: int, stages: int, overlap: str) -> Meta:
    return {
        "BLOCK_N": block_n, "BLOCK_K": block_k, "SPLIT": split, "STAGES": stages, "OVERLAP": overlap, "num_warps": 4,
    }  # fmt: skip


# By weight [n, k]: the fastest tiles for one token and for 2 to 16, None where cuBLAS is as fast. In half precision on
# an H200: benchmarks/results/card/skinny.md.
TILES: dict[tuple[int, int], tuple[Meta | None, Meta | None]] = {
    # Qwen3-8B: query, key and value; out; gate and up; down; head
    (6144, 4096): (_meta(16, 512, 1, 3, "tile"), None),
    (4096, 4096): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 2, 4, "prefetch")),
    (24_576, 4096): (_meta(8, 1024, 1, 3, "tile"), _meta(64, 128, 1, 4, "on")),
    (4096, 12_288): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 4, 4, "prefetch")),
    (151_936, 4096): (_meta(8, 1024, 1, 3, "tile"), _meta(64, 128, 1, 4, "on")),
    # Qwen2.5-VL-7B
    (4608, 3584): (_meta(16, 512, 1, 3, "tile"), None),
    (3584, 3584): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 2, 4, "prefetch")),
    (37_888, 3584): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 1, 4, "on")),
    (3584, 18_944): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 4, 4, "prefetch")),
    (152_064, 3584): (_meta(16, 512, 1, 3, "prefetch"), _meta(64, 128, 1, 4, "on")),
}


def tiles_for(tokens: int, weight: Tensor) -> Meta | None:
    """Return the tiles of a GEMM of `tokens` tokens with a weight [n, k], None where cuBLAS computes it."""
    if tokens > MOST_TOKENS or weight.dtype == torch.float32:
        return None
    one, more = TILES.get((weight.shape[0], weight.shape[1]), (None, None))
    return one if tokens == 1 else more


class Gemms:
    """The GEMMs of one model. Tokens are [T, k] or [T, n], weights [n, k].

    quantized: whether weights may be, which takes more scratch memory.
    """

    def __init__(self, shape: DecoderShape, tuning: Tuning, quantized: bool = False) -> None:
        self._eps, self._tuning = shape.eps, tuning
        self._multiprocessors = multiprocessors_of(shape.device)
        self._packed_scratch = packed_scratch(shape.device) if quantized else None
        # No weight whose GEMM is split has more rows than the residual stream.
        self._scratch = Scratch.empty(shape.hidden, shape.device) if tuning.skinny else None

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Weight | Fp8, bias: Tensor | None = None) -> Tensor:
        """Return the product of the RMSNorm of x."""
        if isinstance(weight, Quantized | Fp8):
            packed = x.new_empty(x.shape[0], weight.shape[0])
            self._packed(self._normed(x, norm), weight, packed, bias)
            return packed
        tiles = self._tiles(x, weight)
        if tiles is None:
            return F.linear(self._normed(x, norm), weight, bias)
        out = x.new_empty(x.shape[0], weight.shape[0])
        if x.shape[0] == 1:
            skinny_linear(x, weight, bias, norm, self._eps, out, meta=tiles)
        else:
            skinny_linear(self._normed(x, norm), weight, bias, None, self._eps, out, self._scratch, tiles)
        return out

    def add(self, x: Tensor, weight: Weight | Fp8, residual: Tensor) -> None:
        """Add the product of x to `residual` in place."""
        if isinstance(weight, Quantized | Fp8):
            self._packed(x, weight, residual, add=True)
            return
        tiles = self._tiles(x, weight)
        if tiles is None or self._scratch is None:
            residual.addmm_(x, weight.t())
        else:
            skinny_add(x, weight, residual, self._scratch, tiles)

    def silu_add(self, both: Tensor, weight: Weight | Fp8, residual: Tensor) -> None:
        """Add the product of silu(both[:, :k]) * both[:, k:] to `residual` in place."""
        if isinstance(weight, Quantized | Fp8):
            self._packed(self._active(both), weight, residual, add=True)
            return
        tiles = self._tiles(both, weight)
        if tiles is None or self._scratch is None:
            residual.addmm_(self._active(both), weight.t())
        else:
            skinny_add(both, weight, residual, self._scratch, tiles)

    def logits(self, x: Tensor, norm: Tensor, head: Weight, logits: Tensor) -> None:
        """Write the product of the RMSNorm of x as float32, which is how it is accumulated on CUDA."""
        normed = self._normed(x, norm)
        if isinstance(head, Quantized):
            self._packed(normed, head, logits)
            return
        tiles = self._tiles(x, head)
        if tiles is not None:
            skinny_linear(normed, head, None, None, self._eps, logits, self._scratch, tiles)
        elif x.is_cuda and x.dtype != torch.float32:  # pragma: no cover - CUDA
            torch.mm(normed, head.t(), out_dtype=torch.float32, out=logits)
        else:
            logits.copy_(F.linear(normed, head))

    def _tiles(self, x: Tensor, weight: Tensor) -> Meta | None:
        tiles = tiles_for(x.shape[0], weight) if self._tuning.skinny else None
        if tiles is None or self._tuning.dependent:
            return tiles
        return {**tiles, "OVERLAP": "off"}

    def _packed(
        self, x: Tensor, weight: Quantized | Fp8, out: Tensor, bias: Tensor | None = None, add: bool = False
    ) -> None:
        if isinstance(weight, Fp8):
            fp8_linear(x, weight, out, bias, add, self._tuning.dependent)
        else:
            packed_linear(
                x, weight, out, bias, self._packed_scratch, self._tuning.dependent, add=add,
                multiprocessors=self._multiprocessors,
            )  # fmt: skip

    def _active(self, both: Tensor) -> Tensor:
        active = both.new_empty(both.shape[0], both.shape[1] // 2)
        silu_and_mul(both, active, self._tuning.dependent)
        return active

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        rms_norm(x, weight, self._eps, out, self._tuning.dependent)
        return out
