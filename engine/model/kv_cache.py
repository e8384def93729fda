"""The keys and values of every running sequence: one slot a sequence, each of `max_model_len` tokens."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values.

    One tensor `all` [layers, slots, 2, kv_heads, length, head_dim]: one head's keys lie in a row, which is how
    attention reads them; `layers` are its parts, `keys` and `values` the halves of each. A slot belongs to one running
    sequence; position p of a sequence lies at [:, slot, :, :, p]. Everything is zero at first, and a slot that held
    something not finite is scrubbed, because a masked place is still multiplied by zero: what lies there must be
    finite.
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
        """Return how many bytes one token takes."""
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    def slot_mapping(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return where `write` puts T tokens, [T * 2 * kv_heads], from their slots [T] and positions [T]."""
        first = slots * (len(self._heads) * self.length) + positions
        return (first[:, None] + self._heads).flatten()

    def offsets(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return where in a layer the first head of T tokens lies, [T], in elements."""
        own = self.layers[0]
        return slots * own.stride(0) + positions * own.stride(3)

    def run_offsets(self, slots: list[int], positions: list[int]) -> Tensor:
        """Return where runs of tokens that begin at these slots and positions [n] lie in `all`, in elements: one for
        each layer and head of keys and values, [layers * 2 * kv_heads * n].
        """
        layers, _, _, heads, _, _ = self.all.shape
        strides = self.all.stride()
        starts = np.array(slots, dtype=np.int64) * strides[1] + np.array(positions, dtype=np.int64) * strides[4]
        first = np.arange(layers)[:, None, None] * strides[0] + np.arange(2 * heads)[:, None] * strides[3]
        return torch.from_numpy((first + starts).ravel())

    def write(self, layer: int, slot_mapping: Tensor, kv: Tensor) -> None:
        """Store keys and values [T, 2 * kv_heads, D], the keys' heads first, at `places`."""
        self._flat[layer].index_copy_(0, slot_mapping, kv.reshape(-1, kv.shape[-1]))

    def zero(self, slot: int) -> None:
        """Zero a slot that may hold values that are not finite."""
        self.all[:, slot].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros whose memory is in place: pages that come at the first use would make the first steps slow."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)  # NumPy asks for huge pages
    return torch.from_numpy(raw).zero_().view(dtype).view(shape)
