"""Paged attention in double precision, one query after another: what every faster attention has to equal."""

from __future__ import annotations

import math

import torch

from engine.model.kv_cache import KVCache
from engine.schedule.block_pool import BLOCK, SCRAP, blocks_for


def paged_attention_reference(q, layer, tables, spans):
    """Return the causal attention [T, heads * D], in float64, of spans whose keys and values are in the cache.

    q: [T, heads, D]; layer: [blocks, 2, kv_heads, BLOCK, D]; tables: [rows, columns]; spans: (row of its table, start
    position, tokens) of consecutive queries of one sequence, in the order of q.
    """
    heads, kv_heads, size = q.shape[1], layer.shape[2], q.shape[2]
    out = torch.empty(q.shape, dtype=torch.float64)
    row = 0
    for table_row, start, tokens in spans:
        for position in range(start, start + tokens):
            blocks = [int(block) for block in tables[table_row][: blocks_for(position + 1)]]
            cached = torch.cat([layer[block] for block in blocks], dim=-2).double()[..., : position + 1, :]
            for head in range(heads):
                keys, values = cached[:, head // (heads // kv_heads)]
                weights = torch.softmax(keys @ q[row, head].double() / math.sqrt(size), dim=0)
                out[row, head] = weights @ values
            row += 1
    return out.flatten(1)


def random_spans(rng, slots, longest):
    """Return decode spans, and chunks of other slots, as (slot, start, tokens); at least one of both."""
    picked = rng.sample(range(slots), rng.randint(1, slots))
    cut = rng.randint(0, len(picked))
    starts = (0, BLOCK - 1, BLOCK, BLOCK, rng.randrange(longest))
    decode = [(slot, rng.choice(starts), 1) for slot in picked[:cut]]
    chunks = []
    for slot in picked[cut:]:
        start = rng.choice((0, BLOCK, rng.randrange(longest // 2)))
        chunks.append((slot, start, rng.randint(1, longest - start)))
    return decode, chunks


def random_cache(rng, spans, slots, longest, kv_heads, size, dtype=torch.float32):
    """Return a cache of one layer and tables [slots, columns] in which the spans' earlier tokens are computed.

    Blocks are in any order; where no token of these sequences is, not a number is.
    """
    columns = blocks_for(longest)
    free = list(range(1, 1 + slots * columns))
    rng.shuffle(free)
    cache = KVCache(1, 1 + slots * columns, kv_heads, size, dtype, torch.device("cpu"))
    cache.all.fill_(float("nan"))
    tables = torch.full((slots, columns), SCRAP, dtype=torch.int32)
    for slot, start, tokens in spans:
        for column in range(blocks_for(start + tokens)):
            tables[slot, column] = free.pop()
        for position in range(start):
            block = tables[slot, position // BLOCK]
            cache.all[0, block, :, :, position % BLOCK] = torch.randn(2, kv_heads, size).to(dtype)
    return cache, tables
