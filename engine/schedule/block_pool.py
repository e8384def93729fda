"""Which block of the KV cache belongs to whom: allocation, sharing of prompt prefixes, eviction. No torch here.

A block holds the keys and values of `BLOCK` consecutive tokens. A sequence has a table of blocks: its position p is in
block `table[p // BLOCK]` at offset p % BLOCK. A block of whole prompt tokens may be in the tables of several sequences;
its users are counted, and nothing is copied.

Computed whole blocks are registered in a tree: a node is identified by its parent and its own tokens, so equal nodes
mean exactly equal prefixes. Every block has an owner, so that owners never find each other's blocks; a prompt's public
blocks have none. A registered block without users stays until its memory is needed; the least recently used one is
evicted first. Who uses a block uses its parents too, and they become idle last first, so the evicted one is a leaf: a
block without its prefix could not be found again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from engine.faults import Inconsistent

BLOCK = 16  # tokens
SCRAP = 0  # this block is never allocated: rows of a step that belong to no sequence are written there

_Key = tuple[int, Hashable, tuple[Hashable, ...]]  # parent, owner, tokens


@dataclass(frozen=True, slots=True)
class PrefixScope:
    """Where the blocks of one sequence are found and registered.

    owner: of its blocks, None for everybody; public_tokens: at its beginning, in whole blocks, that have no owner all
    the same; kept: whether its blocks stay for others of the same owner, rather than for its own resumption only.
    """

    owner: Hashable = None
    public_tokens: int = 0
    kept: bool = True

    def owner_of(self, start: int) -> Hashable:
        """Return the owner of the block that begins with this token."""
        return None if start < self.public_tokens else self.owner


EVERYBODY = PrefixScope()


def blocks_for(tokens: int) -> int:
    """Return how many blocks so many tokens take."""
    return -(-tokens // BLOCK)


class BlockPool:
    """`num_blocks` blocks, of which block `SCRAP` is never given away. Used by the engine's thread only.

    sharing: whether blocks are registered and found at all. `available` and `used` may be read by any thread.
    """

    def __init__(self, num_blocks: int, sharing: bool = True) -> None:
        self.num_blocks, self._sharing = num_blocks, sharing
        self._users = [0] * num_blocks
        self._free = list(range(num_blocks - 1, SCRAP, -1))
        self._block_of: dict[_Key, int] = {}
        self._key_of: dict[int, _Key] = {}
        self._children: dict[int, set[int]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # registered, without users, the oldest use first

    @property
    def available(self) -> int:
        """How many blocks can be allocated: the free ones, and those that can be evicted."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """How many blocks have users."""
        return self.num_blocks - 1 - self.available

    def cost(self, keys: Sequence[Hashable], scope: PrefixScope, blocks: int) -> int:
        """Return how many available blocks a sequence with these keys takes for a table of so many blocks."""
        return blocks - sum(self._users[block] > 0 for block in self._path(keys, scope))

    def find(self, keys: Sequence[Hashable], scope: PrefixScope = EVERYBODY) -> list[int]:
        """Return the blocks of the longest registered prefix of `keys`, with one more user each.

        At least one key is always left to compute.
        """
        path = self._path(keys, scope)
        for block in path:
            self._use(block)
        return path

    def allocate(self, count: int) -> list[int]:
        """Return so many blocks with one user each; idle ones are evicted. Raises Inconsistent if there are too few."""
        if count > self.available:
            raise Inconsistent(f"{count} blocks are needed, and {self.available} are available")
        while len(self._free) < count:
            self._forget(next(iter(self._idle)))
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._users[block] = 1
        return blocks

    def register(self, blocks: list[int], keys: Sequence[Hashable], scope: PrefixScope = EVERYBODY) -> list[int]:
        """Let others find every whole block of `keys`, the computed tokens of the sequence with this table.

        Returns the table: a new list if a block was replaced by the equal one that was registered before it, else
        `blocks` itself.
        """
        if not self._sharing:
            return blocks
        table, parent = blocks, SCRAP
        for index in range(len(keys) // BLOCK):
            key, own = _key(parent, keys, scope, index), blocks[index]
            block = self._block_of.setdefault(key, own)
            if block != own:
                table = list(blocks) if table is blocks else table
                table[index] = block
                self._use(block)
                self.release([own])
            elif own not in self._key_of:
                self._key_of[own] = key
                self._children.setdefault(parent, set()).add(own)
            parent = block
        return table

    def release(self, blocks: Collection[int]) -> list[int]:
        """Count one user less of each block of a table; return the blocks that are free now."""
        freed = []
        for block in reversed([*blocks]):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._free.append(block)
                freed.append(block)
        return freed

    def forget(self, blocks: Iterable[int]) -> list[int]:
        """Let nobody find these blocks again, nor those computed after them; return the blocks that are free now.

        Users keep theirs.
        """
        return [freed for block in blocks for freed in self._forget(block)]

    def forget_own(self, blocks: Sequence[int]) -> None:
        """Forget the last blocks of a table, up to one that others use or that others' blocks follow."""
        for block in reversed(blocks):
            if self._users[block] > 1 or self._children.get(block):
                return
            self._forget(block)

    def check(self, tables: Iterable[Sequence[int]]) -> str | None:
        """Return what is wrong with the accounting, None if it matches these tables."""
        users = Counter(block for table in tables for block in table)
        counted = Counter({block: count for block, count in enumerate(self._users) if count})
        if users != counted:
            return f"{users.total()} users of blocks are running, and {counted.total()} are counted"
        rest = sorted([*self._free, *self._idle, *users])
        if rest != list(range(1, self.num_blocks)):
            return f"{len(self._free)} blocks are free, {len(self._idle)} idle and {len(users)} used, of {len(rest)}"
        return None

    def __len__(self) -> int:
        """Return how many blocks can be found."""
        return len(self._key_of)

    def _path(self, keys: Sequence[Hashable], scope: PrefixScope) -> list[int]:
        path: list[int] = []
        parent = SCRAP
        for index in range((len(keys) - 1) // BLOCK if self._block_of else 0):
            block = self._block_of.get(_key(parent, keys, scope, index))
            if block is None:
                break
            path.append(block)
            parent = block
        return path

    def _use(self, block: int) -> None:
        if not self._users[block]:
            del self._idle[block]
        self._users[block] += 1

    def _forget(self, block: int) -> list[int]:
        left, freed = [block], []
        while left:
            block = left.pop()
            key = self._key_of.pop(block, None)
            if key is None:
                continue
            del self._block_of[key]
            siblings = self._children.get(key[0])
            if siblings is not None:
                siblings.discard(block)
            left += self._children.pop(block, ())
            if not self._users[block]:
                del self._idle[block]
                freed.append(block)
        self._free += freed
        return freed


def _key(parent: int, keys: Sequence[Hashable], scope: PrefixScope, index: int) -> _Key:
    start = index * BLOCK
    return parent, scope.owner_of(start), tuple(keys[start : start + BLOCK])
