"""The compiled kernels as calls on CPU tensors, float32 and contiguous unless stated; `packed` has those of fewer bits.

`load_kernels` returns None and logs the reason if they cannot be loaded; every caller falls back to torch.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.build import COMPILERS, HERE, compile_to, level_of, library_name
from engine.model.kernels.packed import Arena, Packing

log = logging.getLogger("avito_ai.loading")

# The functions of the library: number of leading pointers, types of the numbers after them, return type.
SIGNATURES = {
    "panel_columns": (0, "", ctypes.c_long),
    "chunk_scratch": (0, "lli", ctypes.c_long),
    "sample_scratch": (0, "l", ctypes.c_long),
    "pack": (2, "lll", None),
    "gemm": (4, "lllil", None),
    "norm": (3, "llfl", None),
    "silu_and_mul": (2, "lll", None),
    "qk_norm_rope": (3, "llllfl", None),
    "store": (3, "llll", None),
    "attend": (7, "llllllll", None),
    "attend_chunk": (5, "lllllllil", None),
    "layers_scratch": (1, "", ctypes.c_long),
    "layers": (1, "", None),
    "sample": (3, "lll", None),
    "quantized_bytes": (0, "lll", ctypes.c_long),
    "quantized_columns": (0, "", ctypes.c_long),
    "quantize": (2, "lllll", ctypes.c_long),
    "quantized_rows": (3, "lll", None),
    "quantize_rows": (4, "lll", None),
    "quantized_gemm": (6, "llllil", None),
    "half_words": (0, "ll", ctypes.c_long),
    "half_columns": (0, "", ctypes.c_long),
    "half_multiplies": (0, "", ctypes.c_long),
    "half_pack": (2, "llll", None),
    "half_rows": (3, "lll", None),
    "half_gemm": (5, "llllil", None),
}
_TYPES = {"l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}
# The parameters and the result of one row of `Kernels.sample`; `Row` in sampling.h explains the fields.
SAMPLED_ROW = np.dtype(
    [(name, np.uintp) for name in ("bias_ids", "counted_ids", "biases", "counts", "allowed", "top_ids", "top")]
    + [(name, np.int32) for name in ("num_bias", "num_counted", "words", "logprobs")]
    + [(name, np.float32) for name in ("number", "temperature", "top_p", "min_p")]
    + [(name, np.float32) for name in ("repetition", "frequency", "presence")]
    + [("top_k", np.int32), ("token", np.int32), ("finite", np.int32), ("logprob", np.float32)],
    align=True,
)
# A linear layer, a layer and a step of all layers, as layers.h explains them.
GEMM = np.dtype([("weights", np.uintp), ("bias", np.uintp), ("out", np.int_), ("inner", np.int_), ("kind", np.int_)])
LAYER = np.dtype(
    [(name, np.uintp) for name in ("input_norm", "head_norms", "post_norm")]
    + [(name, GEMM) for name in ("qkv", "out", "gate_up", "down")]
)
STEP = np.dtype(
    [(name, np.uintp) for name in ("layers", "hidden", "result", "scratch", "cache", "rotary", "last_norm")]
    + [(name, np.uintp) for name in ("slot_mapping", "slots", "lengths", "chunks", "keep", "tables")]
    + [(name, np.uintp) for name in ("ids", "positions", "embeddings", "rotations", "logits")]
    + [("head", GEMM), ("embeddings_kind", np.int_)]
    + [(name, np.int_) for name in ("count", "rows", "decode", "num_chunks", "kept", "longest", "width", "heads")]
    + [(name, np.int_) for name in ("kv_heads", "dim", "columns", "cache_stride", "rounded", "threads")]
    + [(name, np.float32) for name in ("eps", "head_eps")],
    align=True,
)
GemmArguments = tuple[int, int, int, int, int]  # the fields of GEMM
_ALIGNMENT = 64  # bytes in a cache line and in the widest register
KEPT_FLOATS = 8 << 20  # of scratch memory that a thread keeps; more is asked for each time
_LANES = 16  # floats in the widest register
_WIDEST_HEAD = 256
_LOAD_LOCK = threading.Lock()  # guards the first load: two models may start at once


def declare(library: ctypes.CDLL, names: Iterable[str] = SIGNATURES) -> None:
    """Set the types of these functions of the library."""
    for name in names:
        pointers, numbers, result = SIGNATURES[name]
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [_TYPES[kind] for kind in numbers]
        function.restype = result


class PackedWeight:
    """A weight [out, in] and its bias in the layout that `Kernels.gemm` reads."""

    def __init__(self, panels: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> None:
        self.panels, self.bias = panels, bias
        self.out, self.inner = shape

    @property
    def gemm_arguments(self) -> GemmArguments:
        """What a step of all layers reads; kind 0."""
        return self.panels.data_ptr(), 0 if self.bias is None else self.bias.data_ptr(), self.out, self.inner, 0


class Kernels:
    """The functions of the library. Each uses as many threads as torch does at the time of the call."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._kept = threading.local()  # scratch memory
        declare(library)
        self._columns = int(library.panel_columns())

    def pack(self, weight: Tensor, bias: Tensor | None, arena: Arena) -> PackedWeight:
        """Pack a weight [out, in] and a bias [out] for `gemm`, in memory of the arena."""
        weight = weight.contiguous()
        out, inner = weight.shape
        padded = -(-out // self._columns) * self._columns
        panels = arena.take(padded * inner * weight.itemsize).view(weight.dtype)
        self._library.pack(weight.data_ptr(), panels.data_ptr(), out, inner, torch.get_num_threads())
        if bias is not None:
            bias = torch.cat([bias, bias.new_zeros(padded - out)])
        return PackedWeight(panels, bias, (out, inner))

    def gemm(self, x: Tensor, weight: PackedWeight, add_to: Tensor | None = None) -> Tensor:
        """Return x W^T + b [rows, out] for x [rows, in]; with add_to [rows, out], add it there in place."""
        x = x.contiguous()
        y = x.new_empty(x.shape[0], weight.out) if add_to is None else add_to
        bias = None if weight.bias is None else weight.bias.data_ptr()
        self._library.gemm(
            x.data_ptr(), weight.panels.data_ptr(), bias, y.data_ptr(), x.shape[0], weight.out, weight.inner,
            add_to is not None, torch.get_num_threads(),
        )  # fmt: skip
        return y

    def packing(self, name: str) -> Packing:
        """Return what packs the weights of a model in one of `packed.FORMATS`."""
        return Packing(self._library, name)

    def norm(self, x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
        """Return x / sqrt(|x|^2 + eps) [rows, n] for x [rows, n], times `weight` [n] if given."""
        x = x.contiguous()
        y, scales = torch.empty_like(x), None if weight is None else weight.data_ptr()
        self._library.norm(x.data_ptr(), y.data_ptr(), scales, x.shape[0], x.shape[1], eps, torch.get_num_threads())
        return y

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """Return silu(x[:, :n]) * x[:, n:] [rows, n] for x [rows, 2 n]."""
        x = x.contiguous()
        rows, both = x.shape
        y = x.new_empty(rows, both // 2)
        self._library.silu_and_mul(x.data_ptr(), y.data_ptr(), rows, both // 2, torch.get_num_threads())
        return y

    def qk_norm_rope(self, x: Tensor, weights: Tensor | None, rotary: Tensor, eps: float) -> None:
        """Normalize with `weights` [heads, D], if given, and rotate x [rows, heads, D] in place.

        x may be a view of wider rows. rotary: complex [rows, 1, D / 2].
        """
        rotary = rotary.contiguous()
        rows, heads, dim = x.shape
        scales = None if weights is None else weights.data_ptr()
        self._library.qk_norm_rope(
            x.data_ptr(), scales, rotary.data_ptr(), rows, x.stride(0), heads, dim, eps, torch.get_num_threads()
        )

    def store(self, x: Tensor, layer: Tensor, slot_mapping: Tensor) -> None:
        """Write keys and values x [rows, 2 * kv_heads, D] to one layer of the cache, [blocks, 2, kv_heads, BLOCK, D].

        slot_mapping: int64 [rows]. x may be a view of wider rows.
        """
        rows, heads, dim = x.shape
        self._library.store(x.data_ptr(), layer.data_ptr(), slot_mapping.data_ptr(), rows, x.stride(0), heads, dim)

    @staticmethod
    def supports_head(head_dim: int) -> bool:
        """Return whether `attend` and `attend_chunk` support heads of this size."""
        return head_dim % _LANES == 0 and head_dim <= _WIDEST_HEAD

    def attend(
        self, q: Tensor, layer: Tensor, tables: Tensor, slots: Tensor, lengths: Tensor, longest: int, out: Tensor
    ) -> None:
        """Write the attention of q [rows, heads, D], which may be a view of wider rows, to `out` [rows, heads * D].

        Each row attends to the first `lengths` [rows] tokens of the sequence in its slot. slots: int64 [rows]; tables:
        int32 [slots, columns]; longest: the maximum of `lengths`; layer: [blocks, 2, kv_heads, BLOCK, D].
        """
        rows, heads, dim = q.shape
        kv_heads = layer.shape[2]
        threads, group = torch.get_num_threads(), heads // kv_heads
        padded = padded_length(longest)
        scores = q.new_empty(threads * group * padded)
        self._library.attend(
            q.data_ptr(), layer.data_ptr(), tables.data_ptr(), slots.data_ptr(), lengths.data_ptr(), out.data_ptr(),
            scores.data_ptr(), rows, q.stride(0), kv_heads, group, dim, tables.shape[1], padded, threads,
        )  # fmt: skip

    def attend_chunk(
        self, q: Tensor, layer: Tensor, table: Tensor, start: int, out: Tensor, rounded: bool = False
    ) -> None:
        """Write the causal attention of q [count, heads, D], which may be a view of wider rows, to `out`.

        layer: [blocks, 2, kv_heads, BLOCK, D], which already contains the keys and values of the chunk, from position
        `start` of the sequence; table: its blocks, int32 [columns]. out: [count, heads * D]. rounded: whether queries,
        keys, values and weights are rounded to bfloat16, where the processor multiplies it.
        """
        count, heads, dim = q.shape
        kv_heads = layer.shape[2]
        threads = torch.get_num_threads()
        scratch = q.new_empty(threads * self._library.chunk_scratch(start + count, dim, rounded))
        self._library.attend_chunk(
            q.data_ptr(), layer.data_ptr(), table.data_ptr(), out.data_ptr(), scratch.data_ptr(), start, count,
            q.stride(0), out.stride(0), kv_heads, heads // kv_heads, dim, rounded, threads,
        )  # fmt: skip

    def layers_scratch(self, step: int) -> int:
        """Return how many floats of scratch memory a step of all layers needs. step: where it is (STEP)."""
        return int(self._library.layers_scratch(step))

    def layers(self, step: int) -> None:
        """Compute all layers of a step. step: where it is (STEP); what its pointers name must be alive."""
        self._library.layers(step)

    def sample(self, logits: Tensor, rows: array[int]) -> None:
        """Sample one token per row. logits: [n, vocabulary], not changed; rows: n of SAMPLED_ROW, the results too."""
        count, vocabulary = logits.shape
        threads = torch.get_num_threads()
        scratch = self.scratch(threads * -(-self._library.sample_scratch(vocabulary) // 4))
        self._library.sample(logits.data_ptr(), rows.buffer_info()[0], scratch.data_ptr(), count, vocabulary, threads)

    def scratch(self, size: int) -> Tensor:
        """Return uninitialized memory for `size` floats, aligned to a cache line, for one call of this thread.

        Of what is not large the thread keeps the most that it has asked for.
        """
        kept: Tensor | None = getattr(self._kept, "scratch", None)
        if kept is not None and len(kept) >= size:
            return kept
        scratch = _aligned(size)
        if size <= KEPT_FLOATS:
            self._kept.scratch = scratch
        return scratch


@functools.cache
def _loaded() -> Kernels | None:
    return load_from(HERE, level_of())


def load_kernels() -> Kernels | None:
    """Return the kernels, compiled on the first call; None, with a log line, if they cannot be loaded."""
    with _LOAD_LOCK:
        return _loaded()


def load_from(
    folder: Path,
    level: str | None,
    compilers: Sequence[str] = COMPILERS,
    writable: Callable[[Path], bool] = lambda folder: os.access(folder, os.W_OK),
) -> Kernels | None:
    """Return the kernels for a processor level from `folder`, compiling them if the library is missing."""
    if level is None:
        log.info("There are no kernels for this processor: the models run on torch operations.")
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


def padded_length(longest: int) -> int:
    """Return the length of a row of scores of attention to so many tokens: of whole vectors."""
    return -(-longest // _LANES) * _LANES


def _aligned(size: int) -> Tensor:
    """Return uninitialized memory for `size` floats, aligned to a cache line."""
    memory = torch.from_numpy(np.empty(size + _ALIGNMENT // 4, dtype=np.float32))  # NumPy asks for huge pages
    first = -memory.data_ptr() % _ALIGNMENT // 4
    return memory[first : first + size]
