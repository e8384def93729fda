"""Attention of one step over the blocks of the KV cache: decode rows, and chunks of prompts.

The rows of a step are flat: decode rows first, then the chunks. With the kernels each row reads its own blocks where
they are. With torch alone the blocks of a sequence are gathered first: simple, and right on every device. Query heads
that share a key head are laid along the query axis, so grouped-query attention needs no repeated keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.kernels.library import Kernels, padded_length
from engine.model.kv_cache import BlockTables, KVCache
from engine.schedule.block_pool import BLOCK, blocks_for

# Bytes of keys and values that the CPU reads in the time of one more call (measured: 15 us per call, 11 GB/s).
CALL_BYTES = 160 * 1024


class Span(NamedTuple):
    """`size` consecutive tokens of one sequence, starting at position `start`; `slot` is the row of its table."""

    slot: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """The rows of one step.

    decode: spans of one token each. chunks: spans of prompts, after the decode rows. tables: those of their slots.
    positions, slot_mapping: int64 [T], of each token in its sequence and in the KV cache.
    """

    decode: Sequence[Span]
    chunks: Sequence[Span]
    tables: BlockTables
    positions: Tensor
    slot_mapping: Tensor

    @classmethod
    def of(
        cls, decode: Sequence[Span], chunks: Sequence[Span], tables: BlockTables, device: torch.device
    ) -> AttentionMetadata:
        """Return the metadata of a step over these spans, whose tables are up to date."""
        block_of = tables.array.item
        positions = [span.start for span in decode]
        mapping = [block_of(slot, at // BLOCK) * BLOCK + at % BLOCK for slot, at, _ in decode]
        for slot, start, size in chunks:
            positions += range(start, start + size)
            mapping += tables.slot_mapping(slot, start, size)
        both = torch.from_numpy(np.array((positions, mapping), dtype=np.int64)).to(device)  # faster than torch.tensor
        return cls(decode, chunks, tables, both[0], both[1])


class TorchAttention:
    """The `Attend` callable of one step, computed by torch over gathered blocks."""

    def __init__(self, cache: KVCache, metadata: AttentionMetadata) -> None:
        decode, chunks = metadata.decode, metadata.chunks
        self._cache, self._slot_mapping = cache, metadata.slot_mapping
        token_bytes = cache.layers[0][0, :, :, 0].nbytes
        groups = _group_rows(decode, CALL_BYTES // token_bytes)
        parts = [*(decode[first:last] for first, last in groups), *([span] for span in chunks)]
        self._parts = [_Part(spans, metadata.tables, cache) for spans in parts]
        self._counts = [sum(span.size for span in spans) for spans in parts]

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        self._cache.write(layer, self._slot_mapping, kv)
        cached = self._cache.layers[layer]
        rows = zip(q.split(self._counts), self._parts, strict=True)
        outputs = [part.attend(queries, cached) for queries, part in rows]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).flatten(1)


class _Part:
    """What one call of torch's attention computes: decode rows of similar length, or one chunk."""

    def __init__(self, spans: Sequence[Span], tables: BlockTables, cache: KVCache) -> None:
        device = cache.all.device
        self._rows = len(spans)
        lengths = [span.start + span.size for span in spans]
        self._longest = max(lengths)
        slots = [span.slot for span in spans]
        blocks = tables.array[slots, : blocks_for(self._longest)]
        self._blocks = torch.from_numpy(blocks.astype(np.int64)).to(device)
        self._mask: Tensor | None = None  # [rows, 1, size, longest]: the keys that a query sees
        self._beyond: Tensor | None = None  # [rows, 1, longest, 1]: past the end of a row, where anything may lie
        at = torch.arange(self._longest, device=device)
        if spans[0].size > 1:
            self._mask = (at <= at[spans[0].start :, None])[None, None]
        elif min(lengths) < self._longest:
            beyond = at >= torch.tensor(lengths, device=device)[:, None]
            self._mask, self._beyond = ~beyond[:, None, None], beyond[:, None, :, None]

    def attend(self, q: Tensor, cached: Tensor) -> Tensor:
        """Return the attention of q [T, heads, D], of the same shape. cached: one layer of the cache."""
        kv = cached[self._blocks].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)[..., : self._longest, :]
        if self._beyond is not None:  # a mask is added to scores and multiplies weights by zero: NaN would stay NaN
            kv = kv.masked_fill(self._beyond, 0.0)
        keys, values = kv  # [rows, kv_heads, longest, D]
        queries = q.unflatten(0, (self._rows, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)


class KernelAttention:
    """The `Attend` callable of one step, computed by the kernels, which read the blocks where they are."""

    def __init__(self, cache: KVCache, metadata: AttentionMetadata, kernels: Kernels) -> None:
        self._kernels, self._cache = kernels, cache
        self._chunks, self._slot_mapping = metadata.chunks, metadata.slot_mapping
        self._tables = torch.from_numpy(metadata.tables.array)
        self._slots = torch.from_numpy(np.array([span.slot for span in metadata.decode], dtype=np.int64))
        self._lengths = metadata.positions[: len(metadata.decode)] + 1
        self._longest = max((span.start + 1 for span in metadata.decode), default=0)

    def describe(self, step: np.ndarray) -> object:
        """Set the fields of a step of all layers (STEP) that say where to read; return what must be kept alive."""
        chunks = np.array([tuple(span) for span in self._chunks], dtype=np.int64)
        layers = self._cache.all
        step["cache"], step["cache_stride"] = layers.data_ptr(), layers.stride(0)
        step["slot_mapping"], step["tables"] = self._slot_mapping.data_ptr(), self._tables.data_ptr()
        step["slots"], step["lengths"] = self._slots.data_ptr(), self._lengths.data_ptr()
        step["chunks"], step["num_chunks"] = chunks.ctypes.data, len(chunks)
        step["decode"], step["longest"] = len(self._lengths), padded_length(self._longest)
        step["columns"] = self._tables.shape[1]
        return chunks

    @staticmethod
    def supports(cache: KVCache) -> bool:
        """Return whether the kernels support the head size of this cache."""
        return Kernels.supports_head(cache.all.shape[-1])

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        cached, row = self._cache.layers[layer], len(self._lengths)
        self._kernels.store(kv, cached, self._slot_mapping)
        out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        if row:
            self._kernels.attend(q[:row], cached, self._tables, self._slots, self._lengths, self._longest, out[:row])
        for span in self._chunks:
            end = row + span.size
            self._kernels.attend_chunk(q[row:end], cached, self._tables[span.slot], span.start, out[row:end])
            row = end
        return out


def _group_rows(decode: Sequence[Span], max_padding: int) -> list[tuple[int, int]]:
    """Return [first, last) ranges of rows, each with at most `max_padding` tokens of padding."""
    groups: list[tuple[int, int]] = []
    longest = padding = 0
    for row, span in enumerate(decode):
        length = span.start + 1
        if groups:
            first = groups[-1][0]
            more = (row - first) * max(0, length - longest) + max(0, longest - length)
            if padding + more <= max_padding:
                groups[-1] = (first, row + 1)
                longest, padding = max(longest, length), padding + more
                continue
        groups.append((row, row + 1))
        longest, padding = length, 0
    return groups
