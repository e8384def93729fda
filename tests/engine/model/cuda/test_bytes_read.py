"""What attention of a decode step reads, simulated: each row's keys and values once, whatever the mix of lengths."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.model.cuda.attention_plan import AttentionPlanner

HEAD_DIM, PAGE = 128, 16
MODELS = {"8B": (32, 8), "7B": (28, 4)}
# Keys and values alone are read once; parts of split rows write and read partial results too.
MOST, MOST_WITH_PARTS = 1.0, 1.06


def mixes():
    """Return lengths of contexts by name."""
    rng = random.Random(0)
    short = [rng.randint(50, 550) for _ in range(256)]
    return {
        "one row": [300],
        "one row of a full context": [40_960],
        "8 rows": short[:8],
        "64 rows": short[:64],
        "63 rows and a long one": [*short[:63], 2100],
        "255 rows and a full context": [*short[:255], 40_960],
        "64 rows from short to long": [64 * row for row in range(1, 65)],
        "256 full contexts": [4096] * 256,
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mix", mixes())
def test_a_decode_step_reads_what_it_needs(model, mix):
    """Padding rows to the longest would read 15 times as much beside one long row."""
    heads, kv_heads = MODELS[model]
    starts = np.array(mixes()[mix], dtype=np.int32) - 1
    rows, planner = len(starts), AttentionPlanner(heads, kv_heads, max_num_seqs=256)
    numbers, ones = np.arange(rows, dtype=np.int32), np.ones(rows, dtype=np.int32)
    items = np.zeros((planner.max_items(rows), 8), dtype=np.int32)
    merges = np.zeros((planner.max_merges(rows), 4), dtype=np.int32)
    used, merged = planner.plan(numbers, ones, numbers, starts, items, merges)
    token_bytes = 2 * kv_heads * HEAD_DIM * 2
    needed = int((starts + 1).sum()) * token_bytes
    read = int((items[:used, 5] - items[:used, 4]).sum()) * token_bytes
    partials = 2 * int(merges[:merged, 3].sum()) * heads * (HEAD_DIM + 2) * 4  # written, then read
    assert read <= MOST * needed
    assert read + partials <= MOST_WITH_PARTS * needed
