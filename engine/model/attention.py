"""Attention of one step: decode rows, each over its own slot, and prompt chunks.

The rows of a step are flat: decode rows first, sorted by slot, then the chunks. With the kernels each row reads its own
keys and values only. With torch alone, decode rows in adjacent slots form a group: one call over a view of the cache,
padded to the longest row under a mask, without copying keys or values. On the CPU attention is bound by reading keys
and values, so a group ends where padding would read more than another call costs. Query heads that share a key head are
laid along the query axis, so grouped-query attention needs no repeated keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.kernels.library import Kernels
from engine.model.kv_cache import SlotCache

# Bytes of keys and values that the CPU reads in the time of one more call (measured: 15 us per call, 11 GB/s).
CALL_BYTES = 160 * 1024


class Span(NamedTuple):
    """`size` consecutive tokens of one sequence, starting at position `start` of `slot`."""

    slot: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    keys: tuple[Tensor, ...]  # by layer, [rows, kv_heads, longest, D]
    values: tuple[Tensor, ...]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Chunk:
    keys: tuple[Tensor, ...]  # by layer, [1, kv_heads, length, D]
    values: tuple[Tensor, ...]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """The rows of one step.

    decode: spans of one token each, sorted by slot. chunks: spans of prompts, after the decode rows. slots, positions:
    int64 [T], the slot of each token and its position there.
    """

    decode: Sequence[Span]
    chunks: Sequence[Span]
    slots: Tensor
    positions: Tensor

    @classmethod
    def of(cls, decode: Sequence[Span], chunks: Sequence[Span], device: torch.device) -> AttentionMetadata:
        """Return the metadata of a step over these spans."""
        slots = [span.slot for span in decode]
        positions = [span.start for span in decode]
        for span in chunks:
            slots += [span.slot] * span.size
            positions += range(span.start, span.start + span.size)
        pairs = torch.from_numpy(np.array((slots, positions), dtype=np.int64)).to(device)  # faster than torch.tensor
        return cls(decode, chunks, pairs[0], pairs[1])


class SlotAttention:
    """The `Attend` callable of one step, computed by torch."""

    def __init__(self, cache: SlotCache, metadata: AttentionMetadata) -> None:
        decode, chunks = metadata.decode, metadata.chunks
        self._cache, self._device = cache, cache.all.device
        token_bytes = cache.all[0, 0, :, :, 0].nbytes
        max_padding = CALL_BYTES // token_bytes if self._device.type == "cpu" else sum(span.start for span in decode)
        mask = self._decode_mask([span.start + 1 for span in decode])
        groups = _group_rows(decode, max_padding)
        self._groups = [self._group(decode, first, last, mask) for first, last in groups]
        self._chunks = [_chunk(cache, span) for span in chunks]
        self._counts = [last - first for first, last in groups] + [span.size for span in chunks]
        self._slot_mapping = cache.slot_mapping(metadata.slots, metadata.positions)

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        self._cache.write(layer, self._slot_mapping, kv)
        parts = q.unflatten(1, (kv.shape[1] // 2, -1)).split(self._counts)
        outputs = [
            F.scaled_dot_product_attention(rows, group.keys[layer], group.values[layer], attn_mask=group.mask)
            for rows, group in zip(parts, self._groups, strict=False)
        ]
        outputs += [
            _attend_chunk(rows, chunk, layer)
            for rows, chunk in zip(parts[len(self._groups) :], self._chunks, strict=True)
        ]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).reshape(q.shape[0], -1)

    def _decode_mask(self, lengths: list[int]) -> Tensor | None:
        """Return [rows, 1, 1, longest] with -inf past the end of each row, None if all rows have the same length."""
        if len(set(lengths)) < 2:
            return None
        beyond = torch.arange(max(lengths), device=self._device) >= torch.tensor(lengths, device=self._device)[:, None]
        mask = torch.zeros(beyond.shape, dtype=self._cache.all.dtype, device=self._device)
        return mask.masked_fill_(beyond, float("-inf"))[:, None, None]

    def _group(self, decode: Sequence[Span], first: int, last: int, mask: Tensor | None) -> _DecodeGroup:
        lengths = [span.start + 1 for span in decode[first:last]]
        longest, slot = max(lengths), decode[first].slot
        group_mask = None if mask is None or min(lengths) == longest else mask[first:last, ..., :longest]
        return _DecodeGroup(*_views(self._cache, slice(slot, slot + last - first), longest), group_mask)


class KernelAttention:
    """The `Attend` callable of one step, computed by the kernels: a decode row reads its own keys and values only."""

    def __init__(self, cache: SlotCache, metadata: AttentionMetadata, kernels: Kernels) -> None:
        self._kernels, self._cache = kernels, cache
        self._slots, self._chunks = metadata.slots, metadata.chunks
        self._offsets = cache.offsets(metadata.slots, metadata.positions)
        self._lengths = metadata.positions[: len(metadata.decode)] + 1
        self._longest = max((span.start + 1 for span in metadata.decode), default=0)

    @staticmethod
    def supports(cache: SlotCache) -> bool:
        """Return whether the kernels support the head size of this cache."""
        return Kernels.supports_head(cache.all.shape[-1])

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        cached, row = self._cache.layers[layer], len(self._lengths)
        self._kernels.store(kv, cached, self._offsets)
        out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        if row:
            self._kernels.attend(q[:row], cached, self._slots, self._lengths, self._longest, out[:row])
        for span in self._chunks:
            end = row + span.size
            self._kernels.attend_chunk(q[row:end], cached[span.slot], span.start, out[row:end])
            row = end
        return out


def _chunk(cache: SlotCache, span: Span) -> _Chunk:
    length, device = span.start + span.size, cache.all.device
    mask = None
    if span.start:
        positions = torch.arange(span.start, length, device=device)[:, None]
        mask = torch.arange(length, device=device)[None] <= positions
    return _Chunk(*_views(cache, slice(span.slot, span.slot + 1), length), mask)


def _views(cache: SlotCache, slots: slice, length: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return keys and values of these slots, by layer; called once per step, since each view costs host time."""
    kv = cache.all[:, slots, :, :, :length]
    return kv[:, :, 0].unbind(0), kv[:, :, 1].unbind(0)


def _attend_chunk(rows: Tensor, chunk: _Chunk, layer: int) -> Tensor:
    """Return the attention [T, kv_heads, group, D] of one chunk for its queries, of the same shape."""
    out = F.scaled_dot_product_attention(
        rows.flatten(1, 2).transpose(0, 1)[None],
        chunk.keys[layer],
        chunk.values[layer],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    grouped: Tensor = out[0].transpose(0, 1).unflatten(1, rows.shape[1:3])
    return grouped


def _group_rows(decode: Sequence[Span], max_padding: int) -> list[tuple[int, int]]:
    """Return [first, last) row ranges of adjacent slots, each with at most `max_padding` tokens of padding."""
    groups: list[tuple[int, int]] = []
    longest = padding = 0
    for row, span in enumerate(decode):
        length = span.start + 1
        if groups and decode[row - 1].slot + 1 == span.slot:
            first = groups[-1][0]
            more = (row - first) * max(0, length - longest) + max(0, longest - length)
            if padding + more <= max_padding:
                groups[-1] = (first, row + 1)
                longest, padding = max(longest, length), padding + more
                continue
        groups.append((row, row + 1))
        longest, padding = length, 0
    return groups
