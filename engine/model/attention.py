"""Attention of one step over the blocks of the KV cache: decode rows, and chunks of prompts.

The rows of a step are flat: decode rows first, then the chunks. With the kernels each row reads its own blocks where
they are. With torch alone the blocks of a sequence are gathered first: simple, and right on every device. Query heads
that share a key head are laid along the query axis, so grouped-query attention needs no repeated keys.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.kernels.library import Kernels, padded_length
from engine.model.kernels.whole_step import StepFields
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
    positions, slot_mapping: [T], of each token in its sequence and in the KV cache. slots, lengths: of each decode row,
    the length with the row's own token. All are int64 and on the host.
    """

    decode: Sequence[Span]
    chunks: Sequence[Span]
    tables: BlockTables
    positions: array[int]
    slot_mapping: array[int]
    slots: array[int]
    lengths: array[int]

    @classmethod
    def of(cls, decode: Sequence[Span], chunks: Sequence[Span], tables: BlockTables) -> AttentionMetadata:
        """Return the metadata of a step over these spans, whose tables are up to date."""
        block_of = tables.array.item
        positions = array("q", [span.start for span in decode])
        mapping = array("q", [block_of(slot, at // BLOCK) * BLOCK + at % BLOCK for slot, at, _ in decode])
        lengths = array("q", [span.start + 1 for span in decode])
        for slot, start, size in chunks:
            positions.extend(range(start, start + size))
            mapping.extend(tables.slot_mapping(slot, start, size))
        return cls(decode, chunks, tables, positions, mapping, array("q", [span.slot for span in decode]), lengths)


def index_of(numbers: array[int], device: torch.device) -> Tensor:
    """Return numbers of 64 bits as a tensor, which on the host is the same memory."""
    tensor = torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.empty(0, dtype=torch.int64)
    return tensor if device.type == "cpu" else tensor.to(device)


class TorchAttention:
    """The `Attend` callable of one step, computed by torch over gathered blocks."""

    def __init__(self, cache: KVCache, metadata: AttentionMetadata) -> None:
        decode, chunks = metadata.decode, metadata.chunks
        self._cache, self._slot_mapping = cache, index_of(metadata.slot_mapping, cache.all.device)
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
    """The `Attend` callable of one step, computed by the kernels, which read the blocks where they are.

    rounded: whether chunks are computed in bfloat16, where the processor multiplies it.
    """

    def __init__(self, cache: KVCache, metadata: AttentionMetadata, kernels: Kernels, rounded: bool = False) -> None:
        self._kernels, self._cache, self._metadata, self._rounded = kernels, cache, metadata, rounded
        self._longest = max(metadata.lengths, default=0)

    def describe(self, step: StepFields) -> object:
        """Set the fields of a step of all layers that say where to read; return what must be kept alive."""
        own, tables = self._metadata, self._metadata.tables
        chunks = array("q", chain.from_iterable(own.chunks))
        step.set(cache=self._cache.address, cache_stride=self._cache.stride)
        step.set(slot_mapping=_address(own.slot_mapping), slots=_address(own.slots), lengths=_address(own.lengths))
        step.set(decode=len(own.lengths), longest=padded_length(self._longest))
        step.set(chunks=_address(chunks), num_chunks=len(own.chunks), rounded=self._rounded)
        step.set(tables=tables.address, columns=tables.columns)
        return chunks

    @staticmethod
    def supports(cache: KVCache) -> bool:
        """Return whether the kernels support the head size of this cache."""
        return Kernels.supports_head(cache.all.shape[-1])

    def __call__(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        own, cached, cpu = self._metadata, self._cache.layers[layer], self._cache.all.device
        tables, row = own.tables.tensor, len(own.decode)
        self._kernels.store(kv, cached, index_of(own.slot_mapping, cpu))
        out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        if row:
            slots, lengths = index_of(own.slots, cpu), index_of(own.lengths, cpu)
            self._kernels.attend(q[:row], cached, tables, slots, lengths, self._longest, out[:row])
        for span in own.chunks:
            end = row + span.size
            self._kernels.attend_chunk(q[row:end], cached, tables[span.slot], span.start, out[row:end], self._rounded)
            row = end
        return out


def _address(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


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
