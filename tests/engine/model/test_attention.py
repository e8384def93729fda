"""Attention over blocks, against the reference that computes one query after another in double precision."""

import random

import numpy as np
import pytest
import torch

from engine.model.attention import AttentionMetadata, KernelAttention, Span, TorchAttention
from engine.model.kv_cache import BlockTables
from engine.schedule.block_pool import BLOCK
from tests.engine.model.paged_attention import paged_attention_reference, random_cache, random_spans

SLOTS, LONGEST, HEADS, KV_HEADS, SIZE = 8, 70, 6, 2, 16


@pytest.mark.seeds(16, 40)
@torch.inference_mode()
def test_each_sequence_attends_to_itself_alone(seed, maybe_kernels):
    """Decode rows of any lengths in any blocks, with prompt chunks in the same step: as if each were alone.

    What lies past the end of a sequence, not a number here, has no weight.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    decode, chunks = ([Span(*span) for span in spans] for spans in random_spans(rng, SLOTS, LONGEST))
    spans = [*decode, *chunks]
    cache, tables = random_cache(rng, spans, SLOTS, LONGEST, KV_HEADS, SIZE)
    metadata = AttentionMetadata.of(decode, chunks, BlockTables(*tables.shape, tables.numpy()))
    tokens = sum(span.size for span in spans)
    q, kv = torch.randn(tokens, HEADS, SIZE), torch.randn(tokens, 2 * KV_HEADS, SIZE)
    attend = KernelAttention(cache, metadata, maybe_kernels) if maybe_kernels else TorchAttention(cache, metadata)
    out = attend(0, q, kv)
    expected = paged_attention_reference(q, cache.layers[0], tables, spans)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_of_very_different_lengths_are_not_padded_to_the_longest():
    """With torch alone, what the padding reads is bounded; the answers are the same."""
    rng = random.Random(0)
    spans = [Span(slot, start, 1) for slot, start in enumerate((5, 6000, 7, 6010))]
    cache, tables = random_cache(rng, spans, 4, 6016, KV_HEADS, SIZE)
    metadata = AttentionMetadata.of(spans, [], BlockTables(*tables.shape, tables.numpy()))
    attend = TorchAttention(cache, metadata)
    assert len(attend._parts) > 1
    q = torch.randn(4, HEADS, SIZE)
    out = attend(0, q, torch.randn(4, 2 * KV_HEADS, SIZE))
    torch.testing.assert_close(
        out.double(), paged_attention_reference(q, cache.layers[0], tables, spans), rtol=1e-4, atol=1e-4
    )


class Row:
    """What the tables need of a sequence."""

    def __init__(self, slot, blocks):
        self.slot, self.blocks = slot, blocks


def test_tables_follow_their_sequences():
    """Blocks that are appended, a table that is replaced, and a slot with a new sequence; only changed rows change."""
    tables = BlockTables(3, 4)
    one, two = Row(0, [5, 6]), Row(2, [7])
    assert tables.update([one, two]) == [0, 2]
    assert tables.update([one, two]) == []
    two.blocks += [8, 9]
    assert tables.update([one, two]) == [2]
    one.blocks = [5, 3]
    assert tables.update([one, two]) == [0]
    assert tables.array.tolist() == [[5, 3, 0, 0], [0, 0, 0, 0], [7, 8, 9, 0]]
    assert tables.update([Row(2, [4])]) == [2]
    assert tables.array[2, 0] == 4
    assert tables.array.dtype == np.int32


def test_a_slot_mapping_follows_the_table():
    """From any position on, over the ends of blocks."""
    tables = BlockTables(2, 3, np.array([[0, 0, 0], [5, 3, 9]], dtype=np.int32))
    whole = [block * BLOCK + offset for block in (5, 3, 9) for offset in range(BLOCK)]
    for start in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3):
        for size in (0, 1, 2, BLOCK - 3, 3 * BLOCK - start):
            if start + size <= 3 * BLOCK:
                assert tables.slot_mapping(1, start, size) == whole[start : start + size]
