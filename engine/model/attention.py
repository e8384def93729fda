"""Attention of one step over the slots: decode rows, each over its own slot, and chunks of prompts.

The flat rows of a step are the decode rows first, sorted by slot, then the chunks. With the kernels each row reads its
own keys and values and nothing else. With torch alone, decode rows whose slots are neighbours are one call over a view
of the cache, padded to the longest of them under a mask: no copy of keys or values. On the CPU, reading keys and values
is what takes the time, so a run is cut where padding would read more than a call costs. Query heads that share a key
head are laid along the query axis, so that grouped heads need no repeated keys.
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
from engine.model.kv_cache import KVCache

# What a processor reads of keys and values in the time that one more call takes, in bytes (measured: 15 us, 11 GB/s).
CALL_BYTES = 160 * 1024


class Span(NamedTuple):
    """`size` tokens of one sequence, whose first lies at position `start` of `slot`."""

    slot: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Run:
    keys: tuple[Tensor, ...]  # by layer, [rows, kv_heads, longest, D]
    values: tuple[Tensor, ...]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Chunk:
    keys: tuple[Tensor, ...]  # by layer, [1, kv_heads, length, D]
    values: tuple[Tensor, ...]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one step. decode: spans of one token each, sorted by slot; chunks: the longer spans, behind them.

    slots, positions: [T], where each token lies.
    """

    decode: Sequence[Span]
    chunks: Sequence[Span]
    slots: Tensor
    positions: Tensor

    @classmethod
    def of(cls, decode: Sequence[Span], chunks: Sequence[Span], device: torch.device) -> Rows:
        """Lay out the rows of these spans."""
        slots = [span.slot for span in decode]
        positions = [span.start for span in decode]
        for span in chunks:
            slots += [span.slot] * span.size
            positions += range(span.start, span.start + span.size)
        both = torch.from_numpy(np.array((slots, positions), dtype=np.int64)).to(device)  # quicker than torch.tensor
        return cls(decode, chunks, both[0], both[1])


class SlotAttention:
    """The `attend` of one step by torch's operations."""

    def __init__(self, cache: KVCache, rows: Rows) -> None:
        decode, chunks = rows.decode, rows.chunks
        self._cache, self._device = cache, cache.all.device
        token_bytes = cache.all[0, 0, :, :, 0].nbytes
        spare = CALL_BYTES // token_bytes if self._device.type == "cpu" else sum(span.start for span in decode)
        mask = self._decode_mask([span.start + 1 for span in decode])
        runs = _runs(decode, spare)
        self._runs = [self._run(decode, first, last, mask) for first, last in runs]
        self._chunks = [_chunk(cache, span) for span in chunks]
        self._counts = [last - first for first, last in runs] + [span.size for span in chunks]
        self._slot_mapping = cache.slot_mapping(rows.slots, rows.positions)

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        self._cache.write(layer, self._slot_mapping, kv)
        parts = q.unflatten(1, (kv.shape[1] // 2, -1)).split(self._counts)
        mixed = [
            F.scaled_dot_product_attention(rows, run.keys[layer], run.values[layer], attn_mask=run.mask)
            for rows, run in zip(parts, self._runs, strict=False)
        ]
        mixed += [
            _mix_chunk(rows, chunk, layer) for rows, chunk in zip(parts[len(self._runs) :], self._chunks, strict=True)
        ]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).reshape(q.shape[0], -1)

    def _decode_mask(self, lengths: list[int]) -> Tensor | None:
        """Return [rows, 1, 1, longest] with -inf behind each row's end, None where all rows are equally long."""
        if len(set(lengths)) < 2:
            return None
        behind = torch.arange(max(lengths), device=self._device) >= torch.tensor(lengths, device=self._device)[:, None]
        mask = torch.zeros(behind.shape, dtype=self._cache.all.dtype, device=self._device)
        return mask.masked_fill_(behind, float("-inf"))[:, None, None]

    def _run(self, decode: Sequence[Span], first: int, last: int, mask: Tensor | None) -> _Run:
        lengths = [span.start + 1 for span in decode[first:last]]
        longest, slot = max(lengths), decode[first].slot
        own = None if mask is None or min(lengths) == longest else mask[first:last, ..., :longest]
        return _Run(*_views(self._cache, slice(slot, slot + last - first), longest), own)


class KernelAttention:
    """The same by the kernels, where the cache suits them: each decode row reads its own keys and values, no more."""

    def __init__(self, cache: KVCache, rows: Rows, kernels: Kernels) -> None:
        self._kernels, self._cache, self._slots, self._chunks = kernels, cache, rows.slots, rows.chunks
        self._slot_mapping = cache.offsets(rows.slots, rows.positions)
        self._lengths = rows.positions[: len(rows.decode)] + 1
        self._longest = max((span.start + 1 for span in rows.decode), default=0)

    @staticmethod
    def suits(cache: KVCache) -> bool:
        """Return whether the kernels know heads of this size."""
        return Kernels.attends(cache.all.shape[-1])

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        own, row = self._cache.layers[layer], len(self._lengths)
        self._kernels.store(kv, own, self._slot_mapping)
        mixed = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        if row:
            self._kernels.attend(q[:row], own, self._slots, self._lengths, self._longest, mixed[:row])
        for span in self._chunks:
            end = row + span.size
            self._kernels.attend_chunk(q[row:end], own[span.slot], span.start, mixed[row:end])
            row = end
        return mixed


def _chunk(cache: KVCache, span: Span) -> _Chunk:
    length, device = span.start + span.size, cache.all.device
    mask = None
    if span.start:
        positions = torch.arange(span.start, length, device=device)[:, None]
        mask = torch.arange(length, device=device)[None] <= positions
    return _Chunk(*_views(cache, slice(span.slot, span.slot + 1), length), mask)


def _views(cache: KVCache, slots: slice, length: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the keys and the values of some slots, by layer; made once a step, since each costs the host time."""
    kv = cache.all[:, slots, :, :, :length]
    return kv[:, :, 0].unbind(0), kv[:, :, 1].unbind(0)


def _mix_chunk(rows: Tensor, chunk: _Chunk, layer: int) -> Tensor:
    """Return the attention [T, kv_heads, group, D] of one chunk, from its queries of the same shape."""
    mixed = F.scaled_dot_product_attention(
        rows.flatten(1, 2).transpose(0, 1)[None],
        chunk.keys[layer],
        chunk.values[layer],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    grouped: Tensor = mixed[0].transpose(0, 1).unflatten(1, rows.shape[1:3])
    return grouped


def _runs(decode: Sequence[Span], spare: int) -> list[tuple[int, int]]:
    """Return [first, last) row ranges of neighbouring slots, a new one where padding would pass `spare` tokens."""
    runs: list[tuple[int, int]] = []
    longest = padding = 0
    for row, span in enumerate(decode):
        length = span.start + 1
        if runs and decode[row - 1].slot + 1 == span.slot:
            first = runs[-1][0]
            more = (row - first) * max(0, length - longest) + max(0, longest - length)
            if padding + more <= spare:
                runs[-1] = (first, row + 1)
                longest, padding = max(longest, length), padding + more
                continue
        runs.append((row, row + 1))
        longest, padding = length, 0
    return runs
