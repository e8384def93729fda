"""The plan of paged attention: every query token over exactly its keys, whatever the mix, and within its capacities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.cuda.attention_plan import PART_KEYS, SLACK, AttentionPlanner

SPANS = st.lists(
    st.tuples(st.one_of(st.just(1), st.integers(1, 600)), st.one_of(st.integers(0, 600), st.integers(0, 40_000))),
    min_size=1,
    max_size=40,
)
HEADS = st.sampled_from([(32, 8), (28, 4), (4, 4), (8, 4), (7, 1)])


def plan(planner, sequences, idle=0):
    """Return the items and merges in use; the buffers held something else before."""
    tokens, starts = np.array(sequences, dtype=np.int32).reshape(-1, 2).T
    first = np.cumsum(tokens, dtype=np.int32) - tokens
    total = int(tokens.sum())
    items = np.full((planner.max_items(total) + idle, 8), 99, dtype=np.int32)
    merges = np.full((planner.max_merges(total) + idle, 4), 99, dtype=np.int32)
    used, merged = planner.plan(first, tokens, np.arange(len(tokens), dtype=np.int32), starts, items, merges)
    assert not items[used:, 1].any()
    assert not merges[merged:, 1].any()
    return items[:used], merges[:merged]


@settings(max_examples=150, deadline=None)
@given(SPANS, HEADS, st.sampled_from([8, 108, 132]), st.booleans())
def test_every_token_is_covered_once_over_exactly_its_keys(sequences, heads, multiprocessors, bounded):
    """By one item, or by the parts of one merge; a part of a tile ends where its last token's keys end."""
    planner = AttentionPlanner(*heads, multiprocessors, len(sequences) if bounded else None)
    items, merges = plan(planner, sequences)
    tiles = {}
    for first, tokens, row, position, start, end, partial, merge in items.tolist():
        assert 0 < tokens <= planner.tile_tokens
        assert start < end
        assert (partial < 0) == (merge < 0)
        assert merge < 0 or merges[merge, :2].tolist() == [first, tokens]
        tiles.setdefault((first, tokens, row, position), []).append((start, end, partial))
    covered, rows, merged = [], [], {}
    for first, tokens, first_partial, parts in merges.tolist():
        merged[first, tokens] = [first_partial + part * tokens for part in range(parts)]
    for (first, tokens, row, position), parts in tiles.items():
        parts.sort()
        assert [start for start, _, _ in parts] == [0, *(end for _, end, _ in parts[:-1])]
        assert parts[-1][1] == position + tokens
        assert [partial for _, _, partial in parts] == merged.pop((first, tokens), [-1])
        rows += [partial + token for _, _, partial in parts if partial >= 0 for token in range(tokens)]
        covered += [(row, first + token, position + token) for token in range(tokens)]
    assert not merged
    expected, first = [], 0
    for row, (tokens, start) in enumerate(sequences):
        expected += [(row, first + token, start + token) for token in range(tokens)]
        first += tokens
    assert sorted(covered) == expected
    assert len(rows) == len({*rows})
    assert max(rows, default=-1) < planner.max_partials(first)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=256), HEADS)
def test_decode_reads_each_key_once(starts, heads):
    """Bytes read over bytes needed are 1, whatever the mix of lengths."""
    items, _ = plan(AttentionPlanner(*heads), [(1, start) for start in starts])
    assert (items[:, 5] - items[:, 4]).sum() == sum(starts) + len(starts)


def test_few_long_rows_are_split_for_all_multiprocessors():
    """One row of 8,000 keys alone: about two programs for each of 132 multiprocessors."""
    items, merges = plan(AttentionPlanner(32, 8), [(1, 7_999)])
    assert 1.5 * 132 <= 8 * len(items) <= 2 * 132 + 8
    assert merges[:, 3].tolist() == [len(items)]


def test_many_rows_are_not_split():
    """64 rows of equal length keep all multiprocessors busy as they are."""
    items, merges = plan(AttentionPlanner(32, 8), [(1, 1_999)] * 64)
    assert (len(items), len(merges)) == (64, 0)


def test_one_long_row_is_split_beside_short_ones():
    """No part is much longer than the short rows, and the longest parts come first."""
    items, merges = plan(AttentionPlanner(32, 8), [(1, 299)] * 63 + [(1, 3_999)])
    lengths = items[:, 5] - items[:, 4]
    assert lengths.max() <= 3 * 300
    assert (np.diff(lengths) <= 0).all()
    assert merges[:, 0].tolist() == [63]


def test_short_contexts_stay_whole():
    """Below the shortest part nothing is gained by splitting."""
    items, merges = plan(AttentionPlanner(32, 8), [(1, int(SLACK * PART_KEYS) - 1)])
    assert (len(items), len(merges)) == (1, 0)


def test_an_empty_step_is_idle():
    """No sequences: nothing but idle items."""
    items, merges = plan(AttentionPlanner(32, 8), [], idle=4)
    assert (len(items), len(merges)) == (0, 0)


def test_a_plan_that_does_not_fit_is_refused():
    """Buffers smaller than the capacities are the caller's error."""
    planner, one = AttentionPlanner(32, 8), np.ones(1, dtype=np.int32)
    start = np.full(1, 8_000, dtype=np.int32)
    for items, merges in ((1, 1), (99, 0)):
        room = np.zeros((items, 8), dtype=np.int32), np.zeros((merges, 4), dtype=np.int32)
        with pytest.raises(ValueError, match="do not fit"):
            planner.plan(one, one, one, start, *room)
