"""The KV cache: keys and values in blocks of a few tokens, which the block pool gives to sequences."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.schedule.block_pool import BLOCK
from engine.schedule.sequence import Sequence

CHECKED_AT_ONCE = 64  # blocks of a layer, of which a few megabytes are copied


class KVCache:
    """Preallocated keys and values in blocks of `BLOCK` tokens.

    `all` is one tensor [layers, blocks, 2, kv_heads, BLOCK, head_dim]: the keys of a head in a block are contiguous.
    `layers` are its views by layer; address, stride: where the first is, and how many values later the next. A sequence
    has a table of blocks: its position p is at [:, table[p // BLOCK], :, :, p % BLOCK]. Block `SCRAP` takes what is of
    no sequence. What lies past the end of a sequence may be anything finite; attention gives it no weight.
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks, self.num_kv_heads = num_blocks, num_kv_heads
        self.all = _zeros((num_layers, num_blocks, 2, num_kv_heads, BLOCK, head_dim), dtype, device)
        self.layers = list(self.all.unbind(0))
        self.address, self.stride = self.all.data_ptr(), self.all.stride(0)

    @staticmethod
    def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return the size of one token's keys and values in bytes."""
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    def write(self, layer: int, slot_mapping: Tensor, kv: Tensor) -> None:
        """Write keys and values [T, 2 * kv_heads, D], the key heads first.

        slot_mapping: where the tokens are written, block * BLOCK + offset, int64 [T].
        """
        blocks, offsets = slot_mapping // BLOCK, slot_mapping % BLOCK
        self.layers[layer][blocks, :, :, offsets] = kv.unflatten(1, (2, -1))

    def zero(self, blocks: Collection[int]) -> None:
        """Zero blocks, which may hold values that are not finite."""
        self.all[:, list(blocks)] = 0.0

    def not_finite(self, blocks: Collection[int]) -> list[int]:
        """Return those of these blocks that hold a value that is not finite. Waits for the device."""
        wanted, bad = list(blocks), list[int]()
        for first in range(0, len(wanted), CHECKED_AT_ONCE):
            some = wanted[first : first + CHECKED_AT_ONCE]
            index = torch.tensor(some, device=self.all.device)
            finite = torch.stack([torch.isfinite(layer[index]).flatten(1).all(-1) for layer in self.all]).all(0)
            bad += [block for block, good in zip(some, finite.tolist(), strict=True) if not good]
        return bad


class BlockTables:
    """The tables of the running sequences by their slots, for attention to read.

    array: int32 [slots, columns], a row for each slot; it may be given, in memory of any kind; tensor: the same memory.
    Entries past the end of a table are those of earlier ones, or `SCRAP`.
    """

    def __init__(self, slots: int, columns: int, array: np.ndarray[Any, Any] | None = None) -> None:
        self.array = np.zeros((slots, columns), dtype=np.int32) if array is None else array
        self.tensor = torch.from_numpy(self.array)
        self.address, self.columns = self.tensor.data_ptr(), columns
        self._known: list[list[int]] = [[] for _ in range(slots)]
        self._filled = [0] * slots

    def update(self, sequences: Iterable[Sequence]) -> list[int]:
        """Bring the rows of these sequences up to date; return the slots whose rows changed."""
        changed = []
        for sequence in sequences:
            slot, blocks = sequence.slot, sequence.blocks
            if self._known[slot] is not blocks:
                self._known[slot], self._filled[slot] = blocks, 0
            filled = self._filled[slot]
            if filled < len(blocks):
                self.array[slot, filled : len(blocks)] = blocks[filled:]
                self._filled[slot] = len(blocks)
                changed.append(slot)
        return changed

    def slot_mapping(self, slot: int, start: int, size: int) -> list[int]:
        """Return where the tokens at `size` positions from `start` are, each as block * BLOCK + offset."""
        block_of, end, slots = self.array.item, start + size, list[int]()
        while start < end:
            stop = min(end, (start // BLOCK + 1) * BLOCK)
            first = block_of(slot, start // BLOCK) * BLOCK + start % BLOCK
            slots += range(first, first + stop - start)
            start = stop
        return slots


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros in memory that is already mapped: page faults on first use would slow down the first steps."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)  # NumPy asks for huge pages
    return torch.from_numpy(raw).zero_().view(dtype).view(shape)
