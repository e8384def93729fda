"""The cache of keys and values: a token lies at its slot and position, and a scrubbed slot is clean."""

import torch

from engine.model.kv_cache import KVCache

LAYERS, SLOTS, LENGTH, HEADS, SIZE = 2, 3, 8, 2, 4


def cache():
    return KVCache(LAYERS, SLOTS, LENGTH, HEADS, SIZE, torch.float32, torch.device("cpu"))


def test_a_token_lies_at_its_slot_and_position():
    """Each head's keys and values go there, and nowhere else."""
    kept = cache()
    slots, positions = torch.tensor([2, 0, 2]), torch.tensor([7, 3, 0])
    keys, values = torch.randn(3, HEADS, SIZE), torch.randn(3, HEADS, SIZE)
    kept.write(1, kept.slot_mapping(slots, positions), torch.cat([keys, values], dim=1))
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        assert torch.equal(kept.keys[1][slot, :, position], keys[row])
        assert torch.equal(kept.values[1][slot, :, position], values[row])
    assert int((kept.keys[1] != 0).any(dim=-1).sum()) == 3 * HEADS
    assert not kept.keys[0].any()


def test_a_scrubbed_slot_is_clean_and_its_neighbours_untouched():
    """What is not finite leaves no trace: a masked place is still multiplied by zero."""
    kept = cache()
    kept.all.fill_(1.0)[:, 1] = float("nan")
    kept.zero(1)
    assert not kept.all[:, 1].any()
    assert bool((kept.all[:, [0, 2]] == 1.0).all())


def test_a_token_takes_what_the_budget_says():
    """Bytes a token, times all places, is what is allocated."""
    kept = cache()
    assert kept.all.nbytes == SLOTS * LENGTH * KVCache.bytes_per_token(LAYERS, HEADS, SIZE, torch.float32)
