"""The prefix cache: after any inserts and evictions, the blocks that `match` returns hold exactly those tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.prefix_cache import BLOCK, PrefixCache

# Few different blocks, so that many prompts share prefixes.
prompts = st.lists(st.sampled_from("abc"), min_size=0, max_size=6).flatmap(
    lambda blocks: st.integers(0, BLOCK - 1).map(lambda rest: tuple("".join(b * BLOCK for b in blocks) + "r" * rest))
)


class Blocks:
    """A cache together with what a runner would have copied into each block."""

    def __init__(self, size):
        self.cache, self.held = PrefixCache(size), {}

    def insert(self, keys):
        for index, block in self.cache.insert(keys):
            self.held[block] = keys[: (index + 1) * BLOCK]

    def match(self, keys):
        blocks = self.cache.match(keys)
        for count, block in enumerate(blocks, 1):
            assert self.held[block] == keys[: count * BLOCK]
        return len(blocks)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 6), st.lists(st.tuples(st.booleans(), prompts), max_size=30))
@pytest.mark.slow
def test_a_match_holds_exactly_the_requested_prefix(size, calls):
    """After any inserts and evictions each matched block was computed after exactly the tokens that precede it."""
    blocks = Blocks(size)
    for insert, keys in calls:
        if insert:
            blocks.insert(keys)
        else:
            assert blocks.match(keys) * BLOCK < max(1, len(keys))
        assert len(blocks.cache) <= size


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(prompts, max_size=20))
def test_every_cached_block_can_be_found(size, inserts):
    """Eviction takes leaves of the tree first, so every cached block can be reached from the root."""
    cache, block_of = PrefixCache(size), {}
    for keys in inserts:
        for index, block in cache.insert(keys):
            block_of[block] = keys[: (index + 1) * BLOCK]
    reached = {block for keys in block_of.values() for block in cache.match((*keys, "end"))}
    assert len(reached) == len(cache)


def test_one_token_is_always_left_to_compute():
    """A prompt that is cached whole still needs the logits of its last token."""
    blocks = Blocks(4)
    keys = tuple(range(2 * BLOCK))
    blocks.insert(keys)
    assert blocks.match(keys) == 1
    assert blocks.match((*keys, "next")) == 2
    assert blocks.match(()) == 0


def test_a_prefix_inserted_twice_is_stored_once():
    """A shared prefix takes its blocks once."""
    cache = PrefixCache(8)
    keys = tuple(range(3 * BLOCK))
    assert [index for index, _ in cache.insert(keys)] == [0, 1, 2]
    assert cache.insert(keys) == []
    assert [index for index, _ in cache.insert((*keys[: 2 * BLOCK], *("other",) * BLOCK))] == [2]
    assert len(cache) == 4


def test_the_least_recently_used_prefix_is_evicted_first():
    """A match renews a block; a block that is not matched is evicted."""
    blocks = Blocks(2)
    old, used, new = (tuple(letter * BLOCK) for letter in "abc")
    blocks.insert(old)
    blocks.insert(used)
    assert blocks.match((*old, "x")) == 1
    blocks.insert(new)
    assert blocks.match((*old, "x")) == 1
    assert blocks.match((*used, "x")) == 0


def test_a_long_prompt_does_not_evict_its_own_prefix():
    """Of a prompt that is larger than the cache, the first blocks are cached."""
    blocks = Blocks(2)
    keys = tuple("aabbcc"[i // 8] + str(i // BLOCK) for i in range(3 * BLOCK))
    blocks.insert(keys)
    assert blocks.match(keys) == 2


def test_clear_removes_every_block_and_frees_the_space():
    """After a fault no cached prefix is used."""
    blocks = Blocks(2)
    blocks.insert(tuple("a" * BLOCK * 2))
    blocks.cache.clear()
    assert blocks.match(tuple("a" * BLOCK * 2)) == 0
    blocks.insert(tuple("b" * BLOCK * 2))
    assert len(blocks.cache) == 2
