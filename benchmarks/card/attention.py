"""torch's attention at the engine's shapes: the first call of each new shape against the tenth, by backend."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.card.record import Options, Row, Rows
from benchmarks.card.timing import Work, once

HEADS, GROUP, HEAD_DIM = 8, 4, 128
BACKENDS = {
    "chosen by torch": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Lengths that a cache of execution plans has not seen: one new shape a call.
LENGTHS = (137, 149, 163, 181, 203, 229, 257, 301)


def attention(options: Options) -> Rows:
    """Yield first and later times of prompts, chunks and decode rows for every backend that takes them."""
    for number, (name, backend) in enumerate(BACKENDS.items()):
        # Others than the backends before it had, whose plans torch keeps.
        lengths = tuple(length + number for length in LENGTHS[: options.pick(len(LENGTHS), 2)])
        for shape in ("prompt", "chunk after 512", "64 decode rows"):
            yield "SDPA, ms", {"backend": name, "shape": shape, **_times(shape, lengths, backend, options)}


def _times(shape: str, lengths: tuple[int, ...], backend: SDPBackend | None, options: Options) -> Row:
    firsts: list[float] = []
    laters: list[float] = []
    try:
        for length in lengths:
            q, k, v, mask = _inputs(shape, length, options)

            def call(q: Tensor = q, k: Tensor = k, v: Tensor = v, mask: Tensor | None = mask) -> Tensor:
                causal, repeated = mask is None and q.shape[2] > 1, q.shape[1] != k.shape[1]
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=repeated)

            for number, seconds in enumerate(_ten(call, backend, options.device)):
                (laters if number else firsts).append(seconds * 1e3)
    except RuntimeError as error:
        return {"refused": str(error).partition("\n")[0][:120]}
    return {
        "first, median": statistics.median(firsts),
        "first, longest": max(firsts),
        "second to tenth, median": statistics.median(laters),
    }


def _ten(call: Work, backend: SDPBackend | None, device: str) -> Iterator[float]:
    for _ in range(10):
        if backend is None:
            yield once(call, device)
        else:
            with sdpa_kernel(backend):
                yield once(call, device)


def _inputs(shape: str, length: int, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return queries, keys, values and mask as the engine makes them: views of one cache, padded rows under a mask."""
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    rows = options.pick(64, 2) if shape == "64 decode rows" else 1
    longest = length + 512
    cache = torch.randn(rows, 2, HEADS, longest, HEAD_DIM, device=options.device, dtype=dtype)
    if shape == "64 decode rows":
        q = torch.randn(rows, HEADS, GROUP, HEAD_DIM, device=options.device, dtype=dtype)
        mask = torch.zeros(rows, 1, 1, length, device=options.device, dtype=dtype)
        return q, cache[:, 0, :, :length], cache[:, 1, :, :length], mask
    start = 512 if shape == "chunk after 512" else 0
    q = torch.randn(length, HEADS * GROUP, HEAD_DIM, device=options.device, dtype=dtype).transpose(0, 1)[None]
    beyond = (
        torch.arange(start + length, device=options.device)
        <= torch.arange(start, start + length, device=options.device)[:, None]
    )
    return q, cache[:, 0, :, : start + length], cache[:, 1, :, : start + length], beyond if start else None
