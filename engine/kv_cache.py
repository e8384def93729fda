"""The keys and values of every running sequence: one slot a sequence, each of `max_model_len` tokens."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values.

    Per layer two tensors [slots, length, kv_heads, head_dim]. A slot belongs to one running sequence; position p of a
    sequence lies at [slot, p]. Everything is zero at first, and a slot that held something not finite is scrubbed,
    because a masked place is still multiplied by zero: what lies there must be finite.
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
        shape = (slots, length, num_kv_heads, head_dim)
        self.slots, self.length = slots, length
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self._flat_keys = [layer.view(slots * length, -1) for layer in self.keys]
        self._flat_values = [layer.view(slots * length, -1) for layer in self.values]

    @staticmethod
    def bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return how many bytes one token takes."""
        return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [T, kv_heads, D] at `places` [T], each slot * length + position."""
        rows = places.shape[0]
        self._flat_keys[layer].index_copy_(0, places, keys.reshape(rows, -1))
        self._flat_values[layer].index_copy_(0, places, values.reshape(rows, -1))

    def scrub(self, slot: int) -> None:
        """Zero a slot that may hold values that are not finite."""
        for tensor in (*self.keys, *self.values):
            tensor[slot].zero_()
