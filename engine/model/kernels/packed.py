"""Weights that the kernels keep in 16, 8 or 4 bits: packed once, then multiplied by float32 activations.

int8: groups of 32 inputs share a scale. int4: the same with 16 levels. The activations of a GEMM with either are
quantized to 8 bits by row and group. bfloat16: GEMMs of bfloat16 where the processor has them, else of float32.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.errors import DamagedWeights

BITS = {"int8": 8, "int4": 4}
HALVES = {"bfloat16": 1, "float16": 2}
FORMATS = (*HALVES, *BITS)
GROUP = 32  # inputs that share a scale

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ALIGNMENT = 64  # bytes in a cache line and in the widest register
_CHUNK = 32 << 20  # bytes that are asked for at once: NumPy asks for huge pages from 4 MiB on


class Packed(Protocol):
    """A packed weight [out, in] and its bias. gemm_arguments: what a step of all layers reads of it (GEMM)."""

    gemm_arguments: tuple[int, int, int, int, int]

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """Return x W^T + b [rows, out] for float32 x [rows, in]; with add_to [rows, out], add it there in place."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows of the weight with these numbers, int64 [n], as float32 [n, in]."""
        ...


class Arena:
    """Memory for many weights, aligned to cache lines, in huge pages where the system has them."""

    def __init__(self) -> None:
        self._left = np.empty(0, dtype=np.uint8)

    def take(self, size: int) -> Tensor:
        """Return uninitialized memory of `size` bytes, as a uint8 tensor."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        if len(self._left) < size:
            memory = np.empty(max(size, _CHUNK) + _ALIGNMENT, dtype=np.uint8)
            self._left = memory[-memory.ctypes.data % _ALIGNMENT :]
        taken, self._left = self._left[:size], self._left[size:]
        return torch.from_numpy(taken)


class Packing:
    """Packs weights in one of FORMATS, for a model; its weights lie together in memory."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._library, self._name, self._arena = library, name, Arena()

    def __call__(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """Pack a weight [out, in] of any float dtype and a bias [out]. bfloat16 and float16: of that dtype only.

        Raises DamagedWeights where a weight to be quantized has values that are no finite numbers.
        """
        if self._name in BITS:
            return _Quantized(self._library, self._arena, weight, bias, BITS[self._name])
        return _Half(self._library, self._arena, weight, bias, HALVES[self._name])


class _Half:
    def __init__(self, library: ctypes.CDLL, arena: Arena, weight: Tensor, bias: Tensor | None, kind: int) -> None:
        assert _KINDS[weight.dtype] == kind, weight.dtype
        self._library, self._kind = library, kind
        self._out, self._inner = weight.shape
        weight = weight.contiguous()
        self._words = arena.take(2 * library.half_words(self._out, self._inner))
        library.half_pack(
            weight.data_ptr(), self._words.data_ptr(), self._out, self._inner, kind, torch.get_num_threads()
        )
        self._bias = _padded(bias, library.half_columns())
        self._rounds = kind == HALVES["bfloat16"] and bool(library.half_multiplies())
        self.gemm_arguments = (self._words.data_ptr(), _pointer(self._bias) or 0, self._out, self._inner, kind)

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        rows = x.shape[0]
        y = x.new_empty(rows, self._out) if add_to is None else add_to
        scratch = torch.empty(rows * (self._inner + 1) if self._rounds else 0, dtype=torch.int16)
        rounded = scratch.data_ptr() if self._rounds else None
        self._library.half_gemm(
            x.data_ptr(), self._words.data_ptr(), _pointer(self._bias), y.data_ptr(), rounded, rows, self._out,
            self._inner, self._kind, add_to is not None, torch.get_num_threads(),
        )  # fmt: skip
        return y

    def rows(self, ids: Tensor) -> Tensor:
        ids = ids.contiguous()
        y = torch.empty(len(ids), self._inner, dtype=torch.float32)
        self._library.half_rows(self._words.data_ptr(), ids.data_ptr(), y.data_ptr(), len(ids), self._inner, self._kind)
        return y


class _Quantized:
    def __init__(self, library: ctypes.CDLL, arena: Arena, weight: Tensor, bias: Tensor | None, bits: int) -> None:
        self._library, self._bits = library, bits
        self._out, self._inner = weight.shape
        self._groups = -(-self._inner // GROUP)
        weight = weight.contiguous()
        self._panels = arena.take(library.quantized_bytes(self._out, self._inner, bits))
        damaged = library.quantize(
            weight.data_ptr(), self._panels.data_ptr(), _KINDS[weight.dtype], self._out, self._inner, bits,
            torch.get_num_threads(),
        )  # fmt: skip
        if damaged:
            raise DamagedWeights("a weight has values that are no finite numbers")
        self._bias = _padded(bias, library.quantized_columns())
        self.gemm_arguments = (self._panels.data_ptr(), _pointer(self._bias) or 0, self._out, self._inner, bits)

    def __call__(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        rows, threads = x.shape[0], torch.get_num_threads()
        y = x.new_empty(rows, self._out) if add_to is None else add_to
        count = rows * self._groups
        whole = torch.empty(count * (GROUP + 8), dtype=torch.int8)  # then a scale and a sum for each group
        first = whole.data_ptr()
        scales, sums = first + count * GROUP, first + count * (GROUP + 4)
        self._library.quantize_rows(x.data_ptr(), first, scales, sums, rows, self._inner, threads)
        self._library.quantized_gemm(
            first, scales, sums, self._panels.data_ptr(), _pointer(self._bias), y.data_ptr(), rows, self._out,
            self._inner, self._bits, add_to is not None, threads,
        )  # fmt: skip
        return y

    def rows(self, ids: Tensor) -> Tensor:
        ids = ids.contiguous()
        y = torch.empty(len(ids), self._inner, dtype=torch.float32)
        self._library.quantized_rows(
            self._panels.data_ptr(), ids.data_ptr(), y.data_ptr(), len(ids), self._inner, self._bits
        )
        return y


def packed_bytes(name: str, out: int, inner: int) -> int:
    """Return the size of a packed weight [out, in], an upper bound for any processor."""
    columns = -(-out // GROUP) * GROUP
    if name in HALVES:
        return columns * (inner + inner % 2) * 2
    return columns * -(-inner // GROUP) * (2 + GROUP * BITS[name] // 8)


def _padded(bias: Tensor | None, columns: int) -> Tensor | None:
    """Return the bias as float32, padded to whole panels."""
    if bias is None:
        return None
    bias = bias.float()
    return torch.cat([bias, bias.new_zeros(-len(bias) % columns)])


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
