"""The block pool: a table is what its sequence has computed, nothing is lost or given twice, and leaves go first."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.faults import Inconsistent
from engine.schedule.block_pool import BLOCK, EVERYBODY, SCRAP, BlockPool, PrefixScope, blocks_for

SCOPES = (EVERYBODY, PrefixScope("a"), PrefixScope("b", BLOCK), PrefixScope("a", 2 * BLOCK), PrefixScope(7, kept=False))

# Few different blocks, so that many prompts share prefixes.
prompts = st.lists(st.sampled_from("ab"), min_size=0, max_size=5).flatmap(
    lambda blocks: st.integers(1, BLOCK).map(lambda rest: tuple("".join(b * BLOCK for b in blocks) + "r" * rest))
)


class Row:
    """A sequence that runs: its keys, its scope, its table."""

    def __init__(self, keys, scope, blocks):
        self.keys, self.scope, self.blocks = keys, scope, blocks


class Model:
    """A pool together with what the KV cache would hold: for each block, the prefix whose tokens were computed in it.

    Owners are part of the prefix, since a block may be found by its own owner only.
    """

    def __init__(self, num_blocks):
        self.pool, self.held, self.rows = BlockPool(num_blocks), {}, []

    def prefix(self, row, count):
        return tuple((row.scope.owner_of(i * BLOCK), row.keys[i * BLOCK : (i + 1) * BLOCK]) for i in range(count))

    def start(self, keys, scope):
        """Start a row if it fits, and compute all its tokens; return how many blocks it found."""
        pool, needed = self.pool, blocks_for(len(keys))
        if pool.cost(keys, scope, needed) > pool.available:
            return None
        row = Row(keys, scope, pool.find(keys, scope))
        found = len(row.blocks)
        for count, block in enumerate(row.blocks, 1):
            assert self.held[block] == self.prefix(row, count)
        new = pool.allocate(needed - found)
        for count, block in enumerate(new, found + 1):
            self.held[block] = self.prefix(row, count)
        row.blocks += new
        self.rows.append(row)
        return found

    def register(self, row):
        before = [*row.blocks]
        table = self.pool.register(row.blocks, row.keys, row.scope)
        assert (table is row.blocks) == (table == before)
        row.blocks = table

    def end(self, row, keep=True):
        if not keep:
            self.pool.forget_own(row.blocks)
        self.rows.remove(row)
        self.pool.release(row.blocks)

    def check(self):
        pool = self.pool
        assert pool.check(row.blocks for row in self.rows) is None
        assert pool.used == len({block for row in self.rows for block in row.blocks})
        for row in self.rows:
            assert SCRAP not in row.blocks
            for count, block in enumerate(row.blocks[: len(row.keys) // BLOCK], 1):
                assert self.held[block] == self.prefix(row, count)
        for block, (parent, _, _) in pool._key_of.items():  # each can be reached from the root, and outlives no parent
            assert parent == SCRAP or parent in pool._key_of
            assert parent == SCRAP or pool._users[parent] >= pool._users[block]


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 9), prompts, st.randoms()), max_size=40))
def test_tables_hold_what_their_sequences_computed(size, calls):
    """After any starts, ends, registrations, evictions and faults: shared, found and owned blocks are right."""
    model = Model(size + 1)
    for call, keys, rng in calls:
        if call < 4 or not model.rows:
            model.start(keys, rng.choice(SCOPES))
        else:
            row = rng.choice(model.rows)
            if call < 7:
                model.register(row)
            elif call < 9:
                model.end(row, keep=call == 7)
            else:
                model.pool.forget(rng.sample(row.blocks, 1))
        model.check()
    for row in [*model.rows]:
        model.end(row)
    model.check()
    assert model.pool.available == size


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_long_runs_lose_no_block(seed):
    """Thousands of sequences over a small pool: every block is free, idle or used all the time."""
    rng, model = random.Random(seed), Model(40)
    for _ in range(2000):
        keys = tuple("".join(rng.choice("ab") * BLOCK for _ in range(rng.randint(0, 9))) + "r" * rng.randint(1, BLOCK))
        model.start(keys, rng.choice(SCOPES))
        for row in [*model.rows]:
            if rng.random() < 0.3:
                model.register(row)
            if rng.random() < 0.3:
                model.end(row, keep=rng.random() < 0.9)
    model.check()


def test_a_prefix_is_found_without_a_copy_and_at_least_one_token_is_left():
    """A second sequence with the same prompt has the same blocks; a prompt known whole still computes its last ones."""
    model = Model(9)
    keys = tuple(range(2 * BLOCK))
    assert model.start(keys, EVERYBODY) == 0
    model.register(model.rows[0])
    assert model.start(keys, EVERYBODY) == 1
    assert model.start((*keys, "next"), EVERYBODY) == 2
    assert [row.blocks[0] for row in model.rows] == [model.rows[0].blocks[0]] * 3
    assert model.rows[2].blocks[1] == model.rows[0].blocks[1] != model.rows[1].blocks[1]
    assert model.pool.used == 4


def test_nothing_is_found_before_it_is_registered_nor_a_partial_block():
    """What is not computed yet, or not to its end, belongs to its sequence alone."""
    model = Model(9)
    keys = tuple(range(BLOCK + 5))
    model.start(keys, EVERYBODY)
    assert model.start(keys, EVERYBODY) == 0
    model.register(model.rows[0])
    assert model.start((*keys, "next"), EVERYBODY) == 1
    assert len(model.pool) == 1


def test_blocks_computed_twice_are_shared_once_both_are_registered():
    """Two that started together end up with the same blocks, and what follows of either can be found."""
    model = Model(9)
    one, two = (tuple("a" * 2 * BLOCK + end * BLOCK + "r") for end in "xy")
    model.start(one, EVERYBODY)
    model.start(two, EVERYBODY)
    for row in model.rows:
        model.register(row)
    assert model.rows[0].blocks[:2] == model.rows[1].blocks[:2]
    assert model.pool.used == 6
    assert model.start((*one, "next"), EVERYBODY) == model.start((*two, "next"), EVERYBODY) == 3


def test_the_least_recently_used_block_without_users_goes_first_the_last_of_a_prefix_before_its_first():
    """A use renews a block; a block in use is never evicted."""
    model = Model(5)
    old, used = (tuple(letter * 2 * BLOCK) for letter in "ab")
    for keys in (old, used):
        model.start(keys, EVERYBODY)
        model.register(model.rows[0])
        model.end(model.rows[0])
    assert model.start((*old, "r"), EVERYBODY) == 2
    model.end(model.rows[0])
    assert model.pool.available == 4
    taken, left = [], []
    for _ in range(3):
        taken += model.pool.allocate(1)
        left.append([len(model.pool._path((*keys, "r"), EVERYBODY)) for keys in (old, used)])
    assert left == [[2, 1], [2, 0], [1, 0]]
    with pytest.raises(Inconsistent):
        model.pool.allocate(2)
    assert model.pool.release(taken) == taken[::-1]


def test_a_sequence_costs_no_blocks_that_others_use():
    """Found blocks in use are free of charge; found idle ones are no longer available."""
    model = Model(9)
    keys = tuple("a" * 2 * BLOCK + "r")
    model.start(keys, EVERYBODY)
    model.register(model.rows[0])
    assert model.pool.cost(keys, EVERYBODY, 3) == 1
    model.end(model.rows[0])
    assert model.pool.cost(keys, EVERYBODY, 3) == 3


def test_owners_find_their_own_and_public_blocks_only():
    """A client's blocks are found by that client; the public ones by everybody."""
    model = Model(20)
    keys = tuple("a" * 3 * BLOCK + "r")
    model.start(keys, PrefixScope("a", BLOCK))
    model.register(model.rows[0])
    assert model.start(keys, PrefixScope("b", BLOCK)) == 1
    assert model.start(keys, PrefixScope("a", BLOCK)) == 3
    assert model.start(keys, PrefixScope("a")) == 0


def test_forgotten_blocks_are_not_found_nor_are_those_after_them():
    """Users keep them; idle ones are free at once, and are reported as such."""
    model = Model(9)
    keys = tuple("a" * 3 * BLOCK + "r")
    model.start(keys, EVERYBODY)
    row = model.rows[0]
    model.register(row)
    model.end(row)
    model.start(keys[: BLOCK + 1], EVERYBODY)
    first, second, third, _ = row.blocks
    assert sorted(model.pool.forget([first])) == sorted([second, third])
    assert len(model.pool) == 0
    model.check()
    model.end(model.rows[0])
    assert model.pool.available == 8


def test_its_own_blocks_end_where_those_of_others_begin():
    """What others use, or what others' blocks follow, stays; the rest is forgotten."""
    model = Model(20)
    keys = tuple("a" * BLOCK + "b" * BLOCK + "c" * BLOCK + "r")
    model.start(keys, EVERYBODY)
    model.register(model.rows[0])
    model.start((*keys[: 2 * BLOCK], *("d" * BLOCK), "r"), EVERYBODY)
    model.register(model.rows[1])
    model.end(model.rows[1])
    model.pool.forget_own(model.rows[0].blocks)
    assert len(model.pool._path(keys, EVERYBODY)) == 2
    assert len(model.pool) == 3
    model.check()


def test_without_sharing_nothing_is_found():
    """A pool for PREFIX_CACHE=off only gives and takes."""
    pool = BlockPool(5, sharing=False)
    blocks = pool.allocate(2)
    assert pool.register(blocks, tuple(range(2 * BLOCK))) is blocks
    assert pool.find((*range(2 * BLOCK), "r")) == []
    assert sorted(pool.release(blocks)) == sorted(blocks)


@pytest.mark.parametrize("fault", ["lost", "twice", "user"])
def test_wrong_accounting_is_found(fault):
    """A block that is lost, free and used at once, or counted for nobody."""
    pool = BlockPool(5)
    table = pool.allocate(2)
    assert pool.check([table]) is None
    if fault == "lost":
        pool._free.pop()
    elif fault == "twice":
        pool._free[-1] = table[0]
    else:
        pool._users[table[0]] += 1
    assert pool.check([table]) is not None


def test_a_very_long_prefix_is_forgotten_at_once():
    """A context of tens of thousands of tokens is one path of the tree."""
    pool, keys = BlockPool(4002), (*range(4000 * BLOCK), "r")
    blocks = pool.allocate(4001)
    assert pool.register(blocks, keys) is blocks
    assert pool.release(blocks) == blocks[-1:]
    assert len(pool.forget(blocks[:1])) == 4000
