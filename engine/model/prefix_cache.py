"""Index of the prefix cache: which blocks hold the keys and values of which prompt prefixes.

No torch here: the runner copies keys and values between blocks and slots. A block is `BLOCK` consecutive tokens. Blocks
form a tree: a node is identified by its parent and its own tokens, so equal nodes mean exactly equal prefixes, and a
shared prefix is stored once. The number of blocks is bounded; the least recently used one is evicted first. A use
touches the last block of a path first and the root last, so the evicted block is always a leaf: a block without its
prefix could not be found again.

Every block has an owner, so that owners never find each other's blocks; a prompt's public blocks have none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from engine.schedule.block_pool import BLOCK, EVERYBODY, PrefixScope

_Key = tuple[int, Hashable, tuple[Hashable, ...]]


class PrefixCache:
    """Index of `num_blocks` blocks of keys and values. Used by the engine's thread only."""

    def __init__(self, num_blocks: int) -> None:
        self._blocks: OrderedDict[_Key, tuple[int, int]] = OrderedDict()  # key -> (node, block), oldest use first
        self._free = list(range(num_blocks - 1, -1, -1))
        self._next_node = 1

    def match(self, keys: Sequence[Hashable], scope: PrefixScope = EVERYBODY) -> list[int]:
        """Return the blocks of the longest cached prefix of `keys`; at least one key is always left to compute."""
        path = self._walk(keys[: max(0, len(keys) - 1)], scope)
        self._touch(path)
        return [self._blocks[key][1] for key in path]

    def insert(self, keys: Sequence[Hashable], scope: PrefixScope = EVERYBODY) -> list[tuple[int, int]]:
        """Add every whole block of `keys`; return (index of the block in `keys`, cache block) for each new one."""
        path, new = self._walk(keys, scope), []
        self._touch(path)
        node = self._blocks[path[-1]][0] if path else 0
        for index in range(len(path), len(keys) // BLOCK):
            if (block := self._take_block(len(path))) is None:
                break
            start = index * BLOCK
            path.append((node, scope.owner_of(start), tuple(keys[start : start + BLOCK])))
            node = self._next_node
            self._next_node += 1
            self._blocks[path[-1]] = (node, block)
            new.append((index, block))
        self._touch(path)
        return new

    def clear(self) -> None:
        """Remove all blocks."""
        self._free.extend(block for _, block in self._blocks.values())
        self._blocks.clear()

    def __len__(self) -> int:
        return len(self._blocks)

    def _walk(self, keys: Sequence[Hashable], scope: PrefixScope) -> list[_Key]:
        """Return the path of the cached blocks of `keys`, from the root."""
        path: list[_Key] = []
        node = 0
        for start in range(0, len(keys) - BLOCK + 1, BLOCK):
            key = (node, scope.owner_of(start), tuple(keys[start : start + BLOCK]))
            if (found := self._blocks.get(key)) is None:
                break
            path.append(key)
            node = found[0]
        return path

    def _touch(self, path: list[_Key]) -> None:
        for key in reversed(path):
            self._blocks.move_to_end(key)

    def _take_block(self, in_use: int) -> int | None:
        """Return a free block, else evict the least recently used; None if only the `in_use` latest are left."""
        if self._free:
            return self._free.pop()
        if len(self._blocks) <= in_use:
            return None
        _, (_, block) = self._blocks.popitem(last=False)
        return block
