"""The KV cache: a token is written into its block at its offset, and zeroed blocks hold nothing."""

import torch

from engine.model.kv_cache import KVCache
from engine.schedule.block_pool import BLOCK

LAYERS, BLOCKS, HEADS, SIZE = 2, 5, 3, 4


def cache():
    return KVCache(LAYERS, BLOCKS, HEADS, SIZE, torch.float32, torch.device("cpu"))


def test_a_token_is_written_into_its_block_at_its_offset():
    """Keys and values of each head are written there and nowhere else."""
    kv_cache = cache()
    blocks, positions = torch.tensor([4, 1, 4]), torch.tensor([2 * BLOCK - 1, 3, BLOCK])
    mapping = blocks * BLOCK + positions % BLOCK
    keys, values = torch.randn(3, HEADS, SIZE), torch.randn(3, HEADS, SIZE)
    kv_cache.write(1, mapping, torch.cat([keys, values], dim=1))
    for row, (block, position) in enumerate(zip(blocks, positions, strict=True)):
        assert torch.equal(kv_cache.layers[1][block, 0, :, position % BLOCK], keys[row])
        assert torch.equal(kv_cache.layers[1][block, 1, :, position % BLOCK], values[row])
    assert int((kv_cache.all != 0).any(dim=-1).sum()) == 3 * 2 * HEADS
    assert not kv_cache.all[0].any()


def test_zeroed_blocks_are_zero_and_their_neighbours_unchanged():
    """Values that are not finite are found and are gone."""
    kv_cache = cache()
    kv_cache.all.fill_(1.0)[1, 3, 1, 2, 5, 0] = float("inf")
    kv_cache.all[0, 1, 0, 0, 0, 0] = float("nan")
    assert kv_cache.not_finite([3, 2, 1, 4]) == [3, 1]
    kv_cache.zero([1, 3])
    assert not kv_cache.all[:, [1, 3]].any()
    assert bool((kv_cache.all[:, [0, 2, 4]] == 1.0).all())


def test_bytes_per_token_matches_the_allocation():
    """Bytes per token times the number of tokens is what is allocated."""
    tokens = BLOCKS * BLOCK
    assert cache().all.nbytes == tokens * KVCache.bytes_per_token(LAYERS, HEADS, SIZE, torch.float32)
