"""The KV cache: keys and values in blocks of a few tokens, which the block pool gives to sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.schedule.block_pool import BLOCK


class KVCache:
    """Preallocated keys and values in blocks of `BLOCK` tokens.

    `all` is one tensor [layers, blocks, 2, kv_heads, BLOCK, head_dim]: the keys of a head in a block are contiguous.
    `layers` are its views by layer. A sequence has a table of blocks: its position p is at [:, table[p // BLOCK], :, :,
    p % BLOCK]. Block `SCRAP` takes what belongs to no sequence. What lies past the end of a sequence may be anything
    finite; attention gives it no weight.
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

    @staticmethod
    def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return the size of one token's keys and values in bytes."""
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    @staticmethod
    def slot_mapping(blocks: Tensor, positions: Tensor) -> Tensor:
        """Return where `write` puts T tokens, block * BLOCK + offset [T], from their blocks [T] and positions [T]."""
        return blocks * BLOCK + positions % BLOCK

    def write(self, layer: int, slot_mapping: Tensor, kv: Tensor) -> None:
        """Write keys and values [T, 2 * kv_heads, D], the key heads first, to the slots of `slot_mapping`."""
        blocks, offsets = slot_mapping // BLOCK, slot_mapping % BLOCK
        self.layers[layer][blocks, :, :, offsets] = kv.unflatten(1, (2, -1))

    def zero(self, blocks: Sequence[int]) -> None:
        """Zero blocks, which may hold values that are not finite."""
        self.all[:, list(blocks)] = 0.0

    def not_finite(self, blocks: Sequence[int]) -> list[int]:
        """Return those of these blocks that hold a value that is not finite. Waits for the device."""
        finite = torch.isfinite(self.all[:, list(blocks)]).flatten(2).all(-1).all(0).tolist()
        return [block for block, good in zip(blocks, finite, strict=True) if not good]


class SlotCache:
    """Preallocated keys and values.

    `all` is one tensor [layers, slots, 2, kv_heads, length, head_dim]: the keys of one head are contiguous, in the
    order in which attention reads them. `layers` are its views by layer; `keys` and `values` are the halves of each. A
    slot belongs to one running sequence; its position p is at [:, slot, :, :, p]. The cache starts as zeros, and a slot
    that held values that are not finite must be zeroed: attention multiplies masked positions by zero, which gives zero
    for finite values only.
    """

    def __init__(
        self,
        num_layers: int,
        slots: int,
        length: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots, self.length, self.num_kv_heads = slots, length, num_kv_heads
        self.all = _zeros((num_layers, slots, 2, num_kv_heads, length, head_dim), dtype, device)
        self.layers = list(self.all.unbind(0))
        self.keys, self.values = (list(half.unbind(0)) for half in self.all.unbind(2))
        self._flat = [layer.view(-1, head_dim) for layer in self.all]
        self._heads = torch.arange(2 * num_kv_heads, device=device) * length

    @staticmethod
    def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return the size of one token's keys and values in bytes."""
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    def slot_mapping(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return the rows that `write` fills for T tokens, [T * 2 * kv_heads], from slots [T] and positions [T]."""
        first = slots * (len(self._heads) * self.length) + positions
        return (first[:, None] + self._heads).flatten()

    def offsets(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return the offset of the first head of T tokens within a layer, [T], in elements."""
        layer = self.layers[0]
        return slots * layer.stride(0) + positions * layer.stride(3)

    def block_offsets(self, slots: list[int], positions: list[int]) -> Tensor:
        """Return the offsets in `all` of blocks that start at these slots and positions [n], in elements.

        One offset for each layer, key or value head, and block: [layers * 2 * kv_heads * n].
        """
        layers, _, _, heads, _, _ = self.all.shape
        strides = self.all.stride()
        starts = np.array(slots, dtype=np.int64) * strides[1] + np.array(positions, dtype=np.int64) * strides[4]
        first = np.arange(layers)[:, None, None] * strides[0] + np.arange(2 * heads)[:, None] * strides[3]
        return torch.from_numpy((first + starts).ravel())

    def write(self, layer: int, slot_mapping: Tensor, kv: Tensor) -> None:
        """Write keys and values [T, 2 * kv_heads, D], the key heads first, to the rows of `slot_mapping`."""
        self._flat[layer].index_copy_(0, slot_mapping, kv.reshape(-1, kv.shape[-1]))

    def zero(self, slot: int) -> None:
        """Zero a slot, which may hold values that are not finite."""
        self.all[:, slot].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros in memory that is already mapped: page faults on first use would slow down the first steps."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)  # NumPy asks for huge pages
    return torch.from_numpy(raw).zero_().view(dtype).view(shape)
