"""Attention over slots, against the attention of each sequence alone in double precision."""

import math
import random

import pytest
import torch

from engine.model.attention import AttentionMetadata, KernelAttention, SlotAttention, Span
from engine.model.kv_cache import SlotCache

SLOTS, LENGTH, HEADS, KV_HEADS, SIZE = 8, 40, 6, 2, 16


def alone(q, keys, values, start):
    """Return the causal attention [T, heads * size] of T rows after `start` earlier ones."""
    out = torch.empty(q.shape[0], HEADS, SIZE, dtype=torch.float64)
    for row in range(q.shape[0]):
        for head in range(HEADS):
            k, v = (x[: start + row + 1, head // (HEADS // KV_HEADS)].double() for x in (keys, values))
            weights = torch.softmax(k @ q[row, head].double() / math.sqrt(SIZE), dim=0)
            out[row, head] = weights @ v
    return out.flatten(1)


def random_spans(rng):
    """Return decode spans sorted by slot, and chunks of other slots; at least one of both."""
    slots = rng.sample(range(SLOTS), rng.randint(1, SLOTS))
    cut = rng.randint(0, len(slots))
    decode = [Span(slot, rng.choice((0, 5, 5, rng.randrange(LENGTH))), 1) for slot in sorted(slots[:cut])]
    chunks = []
    for slot in slots[cut:]:
        start = rng.choice((0, rng.randrange(LENGTH // 2)))
        chunks.append(Span(slot, start, rng.randint(1, LENGTH - start)))
    return decode, chunks


@pytest.mark.parametrize("seed", range(40))
@torch.inference_mode()
def test_each_sequence_attends_to_itself_alone(seed, maybe_kernels):
    """Decode rows of any lengths in any slots, with prompt chunks in the same step: as if each were alone.

    Stale keys and values past the end of a sequence are finite and are not attended to.
    """
    torch.manual_seed(seed)
    decode, chunks = random_spans(random.Random(seed))
    cache = SlotCache(1, SLOTS, LENGTH, KV_HEADS, SIZE, torch.float32, torch.device("cpu"))
    cache.keys[0].normal_(std=100)
    cache.values[0].normal_(std=100)
    spans = [*decode, *chunks]
    past = {span.slot: (torch.randn(LENGTH, KV_HEADS, SIZE), torch.randn(LENGTH, KV_HEADS, SIZE)) for span in spans}
    for slot, (keys, values) in past.items():
        start = next(span.start for span in spans if span.slot == slot)
        cache.keys[0][slot, :, :start] = keys[:start].transpose(0, 1)
        cache.values[0][slot, :, :start] = values[:start].transpose(0, 1)
    q = torch.randn(sum(span.size for span in spans), HEADS, SIZE)
    new = [torch.cat([past[s.slot][part][s.start : s.start + s.size] for s in spans]) for part in (0, 1)]
    metadata = AttentionMetadata.of(decode, chunks, cache.all.device)
    attend = KernelAttention(cache, metadata, maybe_kernels) if maybe_kernels else SlotAttention(cache, metadata)
    out = attend(0, q, torch.cat(new, dim=1))
    row = 0
    for span in spans:
        keys, values = past[span.slot]
        expected = alone(q[row : row + span.size], keys, values, span.start)
        torch.testing.assert_close(out[row : row + span.size].double(), expected, rtol=1e-4, atol=1e-4)
        row += span.size
