"""The compiled kernels as calls on tensors: float32, on the processor, contiguous unless a stride is named.

`load_kernels` gives None where they cannot be had, and says why once; everything that uses them has a way without.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.build import COMPILERS, HERE, compile_to, level_of, library_name

log = logging.getLogger("avito_ai.loading")

# Each function of the library: its pointers, the kinds of the numbers behind them, and what it returns.
_SIGNATURES = {
    "panel_columns": (0, "", ctypes.c_long),
    "chunk_scratch": (0, "ll", ctypes.c_long),
    "draw_scratch": (0, "l", ctypes.c_long),
    "pack": (2, "lll", None),
    "gemm": (4, "lllil", None),
    "norm": (2, "llfl", None),
    "silu_and_mul": (2, "lll", None),
    "qk_norm_rope": (3, "llllfl", None),
    "store": (3, "lllll", None),
    "attend": (6, "llllllll", None),
    "attend_chunk": (4, "lllllllll", None),
    "copy_runs": (4, "ll", None),
    "draw": (5, "lll", None),
}
_KINDS = {"l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}
_ALIGNMENT = 64  # bytes: a cache line, and the widest register
_LANES = 16  # floats in the widest register
_WIDEST_HEAD = 256
_LOADING = threading.Lock()  # guards the first load: two models may ask at once


class PackedWeight:
    """A weight [out, in] and its bias in the layout that `Kernels.product` reads."""

    def __init__(self, panels: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> None:
        self.panels, self.bias = panels, bias
        self.out, self.inner = shape


class Kernels:
    """The library's functions. Each uses as many threads as torch does at the time of the call."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, (pointers, numbers, result) in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [ctypes.c_void_p] * pointers + [_KINDS[kind] for kind in numbers]
            function.restype = result
        self._columns = int(library.panel_columns())

    def pack(self, weight: Tensor, bias: Tensor | None) -> PackedWeight:
        """Return a weight [out, in] and a bias [out], laid out for `product`."""
        weight = weight.contiguous()
        out, inner = weight.shape
        padded = -(-out // self._columns) * self._columns
        panels = _aligned(padded * inner)
        self._library.pack(weight.data_ptr(), panels.data_ptr(), out, inner, torch.get_num_threads())
        if bias is not None:
            bias = torch.cat([bias, bias.new_zeros(padded - out)])
        return PackedWeight(panels, bias, (out, inner))

    def gemm(self, x: Tensor, weight: PackedWeight, add_to: Tensor | None = None) -> Tensor:
        """Return x W^T + b [rows, out] of x [rows, in]; with add_to [rows, out], added to it in place."""
        x = x.contiguous()
        y = x.new_empty(x.shape[0], weight.out) if add_to is None else add_to
        bias = None if weight.bias is None else weight.bias.data_ptr()
        self._library.gemm(
            x.data_ptr(), weight.panels.data_ptr(), bias, y.data_ptr(), x.shape[0], weight.out, weight.inner,
            add_to is not None, torch.get_num_threads(),
        )  # fmt: skip
        return y

    def norm(self, x: Tensor, eps: float) -> Tensor:
        """Return x / sqrt(|x|^2 + eps) [rows, n] of x [rows, n]."""
        x = x.contiguous()
        y = torch.empty_like(x)
        self._library.norm(x.data_ptr(), y.data_ptr(), x.shape[0], x.shape[1], eps, torch.get_num_threads())
        return y

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """Return silu(x[:, :n]) * x[:, n:] [rows, n] of x [rows, 2 n]."""
        x = x.contiguous()
        rows, both = x.shape
        y = x.new_empty(rows, both // 2)
        self._library.silu_and_mul(x.data_ptr(), y.data_ptr(), rows, both // 2, torch.get_num_threads())
        return y

    def qk_norm_rope(self, x: Tensor, weights: Tensor | None, rotary: Tensor, eps: float) -> None:
        """Norm by `weights` [heads, D], where given, and rotate x [rows, heads, D] in place, which may be a view of
        wider rows. rotary: complex [rows, 1, D / 2].
        """
        rotary = rotary.contiguous()
        rows, heads, dim = x.shape
        scales = None if weights is None else weights.data_ptr()
        self._library.qk_norm_rope(
            x.data_ptr(), scales, rotary.data_ptr(), rows, x.stride(0), heads, dim, eps, torch.get_num_threads()
        )

    def store(self, x: Tensor, layer: Tensor, offsets: Tensor) -> None:
        """Copy keys and values x [rows, 2 * kv_heads, D] into one layer of the cache, [slots, 2, kv_heads, room, D].

        places: [rows], where in the layer the first head of each row goes, in elements.
        """
        rows, heads, dim = x.shape
        self._library.store(
            x.data_ptr(), layer.data_ptr(), offsets.data_ptr(), rows, x.stride(0), heads, dim, layer.stride(2)
        )

    def copy_runs(self, source: Tensor, target: Tensor, offsets: Tensor, new_offsets: Tensor, size: int) -> None:
        """Copy runs of `size` floats from their places [n] in one tensor to new ones [n] in another, in elements."""
        self._library.copy_runs(
            source.data_ptr(), target.data_ptr(), offsets.data_ptr(), new_offsets.data_ptr(), len(offsets), size
        )

    @staticmethod
    def attends(head_dim: int) -> bool:
        """Return whether `attend` knows heads of this size."""
        return head_dim % _LANES == 0 and head_dim <= _WIDEST_HEAD

    def attend(self, q: Tensor, layer: Tensor, slots: Tensor, lengths: Tensor, longest: int, out: Tensor) -> None:
        """Write attention [rows, heads * D] of q [rows, heads, D] (rows may be wider) to `out`, each row over the
        first `lengths` [rows] tokens of its slot in `slots` [rows]. layer: [slots, 2, kv_heads, room, D].
        """
        rows, heads, dim = q.shape
        kv_heads, room = layer.shape[2], layer.shape[3]
        threads, group = torch.get_num_threads(), heads // kv_heads
        room_of_scores = -(-longest // _LANES) * _LANES
        scores = q.new_empty(threads * group * room_of_scores)
        self._library.attend(
            q.data_ptr(), layer.data_ptr(), slots.data_ptr(), lengths.data_ptr(), out.data_ptr(), scores.data_ptr(),
            rows, q.stride(0), kv_heads, group, dim, room, room_of_scores, threads,
        )  # fmt: skip

    def attend_chunk(self, q: Tensor, slot: Tensor, start: int, out: Tensor) -> None:
        """Write causal attention [count, heads * D] of q [count, heads, D] (rows may be wider) to `out`.

        slot: one layer of the sequence's slot, [2, kv_heads, room, D], where the chunk's own keys and values lie
        already, from `start` on.
        """
        count, heads, dim = q.shape
        kv_heads, room = slot.shape[1], slot.shape[2]
        threads = torch.get_num_threads()
        scratch = q.new_empty(threads * self._library.chunk_scratch(start + count, dim))
        self._library.attend_chunk(
            q.data_ptr(), slot.data_ptr(), out.data_ptr(), scratch.data_ptr(), start, count, q.stride(0),
            out.stride(0), kv_heads, heads // kv_heads, dim, room, threads,
        )  # fmt: skip

    def draw(self, logits: Tensor, temperatures: Tensor, numbers: Tensor) -> Tensor:
        """Return one token a row [rows], drawn from logits [rows, vocabulary], which are overwritten, divided by
        temperatures [rows]: where the running sum of weights passes the row's number in [0, 1) (numbers [rows]).
        """
        rows, vocabulary = logits.shape
        tokens = torch.empty(rows, dtype=torch.long)
        sums = logits.new_empty(rows * self._library.draw_scratch(vocabulary))
        self._library.draw(
            logits.data_ptr(), temperatures.data_ptr(), numbers.data_ptr(), tokens.data_ptr(), sums.data_ptr(), rows,
            vocabulary, torch.get_num_threads(),
        )  # fmt: skip
        return tokens


@functools.cache
def _loaded() -> Kernels | None:
    return load_from(HERE, level_of())


def load_kernels() -> Kernels | None:
    """Return the kernels, compiled if they are not yet; None, with a line in the log, where they cannot be had."""
    with _LOADING:
        return _loaded()


def load_from(
    folder: Path,
    level: str | None,
    compilers: Sequence[str] = COMPILERS,
    writable: Callable[[Path], bool] = lambda folder: os.access(folder, os.W_OK),
) -> Kernels | None:
    """Return the kernels for a level of processor from `folder`, compiled if they are not there yet."""
    if level is None:
        log.info("There are no kernels for this processor: the models run on torch's own operations.")
        return None
    try:
        return Kernels(_open(folder / library_name(level), level, compilers, writable(folder)))
    except OSError as error:
        log.warning("The kernels cannot be built, so the models run slower on the processor: %s", error)
        return None


def _open(path: Path, level: str, compilers: Sequence[str], keep: bool) -> ctypes.CDLL:
    if not path.exists() and keep:
        compile_to(path, level, compilers)
    if path.exists():
        return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as folder:
        compile_to(Path(folder) / path.name, level, compilers)
        return ctypes.CDLL(str(Path(folder) / path.name))


def _aligned(size: int) -> Tensor:
    """Return room for `size` floats that begins with a cache line."""
    room = torch.from_numpy(np.empty(size + _ALIGNMENT // 4, dtype=np.float32))  # NumPy asks for huge pages
    first = -room.data_ptr() % _ALIGNMENT // 4
    return room[first : first + size]
