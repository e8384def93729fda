"""The KV cache: a token is written at its slot and position, and a zeroed slot holds nothing."""

import torch

from engine.model.kv_cache import SlotCache

LAYERS, SLOTS, LENGTH, HEADS, SIZE = 2, 3, 8, 2, 4


def cache():
    return SlotCache(LAYERS, SLOTS, LENGTH, HEADS, SIZE, torch.float32, torch.device("cpu"))


def test_a_token_is_written_at_its_slot_and_position():
    """Keys and values of each head are written there and nowhere else."""
    kv_cache = cache()
    slots, positions = torch.tensor([2, 0, 2]), torch.tensor([7, 3, 0])
    keys, values = torch.randn(3, HEADS, SIZE), torch.randn(3, HEADS, SIZE)
    kv_cache.write(1, kv_cache.slot_mapping(slots, positions), torch.cat([keys, values], dim=1))
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        assert torch.equal(kv_cache.keys[1][slot, :, position], keys[row])
        assert torch.equal(kv_cache.values[1][slot, :, position], values[row])
    assert int((kv_cache.keys[1] != 0).any(dim=-1).sum()) == 3 * HEADS
    assert not kv_cache.keys[0].any()


def test_a_zeroed_slot_is_zero_and_its_neighbours_unchanged():
    """Values that are not finite are gone: a masked position is still multiplied by zero."""
    kv_cache = cache()
    kv_cache.all.fill_(1.0)[:, 1] = float("nan")
    kv_cache.zero(1)
    assert not kv_cache.all[:, 1].any()
    assert bool((kv_cache.all[:, [0, 2]] == 1.0).all())


def test_bytes_per_token_matches_the_allocation():
    """Bytes per token times the number of tokens is what is allocated."""
    kv_cache = cache()
    assert kv_cache.all.nbytes == SLOTS * LENGTH * SlotCache.bytes_per_token(LAYERS, HEADS, SIZE, torch.float32)
