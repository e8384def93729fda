"""Attention over slots, against each sequence's own attention computed alone in double precision."""

import math
import random

import pytest
import torch

from engine.model.attention import KernelAttention, Rows, SlotAttention, Span
from engine.model.kv_cache import KVCache

SLOTS, LENGTH, HEADS, KV_HEADS, SIZE = 8, 40, 6, 2, 16


def alone(q, keys, values, start):
    """Return causal attention [T, heads * size] of T rows that follow `start` earlier ones."""
    out = torch.empty(q.shape[0], HEADS, SIZE, dtype=torch.float64)
    for row in range(q.shape[0]):
        for head in range(HEADS):
            k, v = (x[: start + row + 1, head // (HEADS // KV_HEADS)].double() for x in (keys, values))
            weights = torch.softmax(k @ q[row, head].double() / math.sqrt(SIZE), dim=0)
            out[row, head] = weights @ v
    return out.flatten(1)


def random_spans(rng):
    """Return decode spans sorted by slot, and chunks of other slots; any may be missing, but not all."""
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
    """Rows that decode at any lengths in any slots, with chunks of prompts beside them: as if each were alone.

    What an earlier sequence left further back in a slot is there, finite, and never seen.
    """
    torch.manual_seed(seed)
    decode, chunks = random_spans(random.Random(seed))
    cache = KVCache(1, SLOTS, LENGTH, KV_HEADS, SIZE, torch.float32, torch.device("cpu"))
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
    rows = Rows.of(decode, chunks, cache.all.device)
    attend = KernelAttention(cache, rows, maybe_kernels) if maybe_kernels else SlotAttention(cache, rows)
    out = attend(0, q, torch.cat(new, dim=1))
    row = 0
    for span in spans:
        keys, values = past[span.slot]
        expected = alone(q[row : row + span.size], keys, values, span.start)
        torch.testing.assert_close(out[row : row + span.size].double(), expected, rtol=1e-4, atol=1e-4)
        row += span.size
