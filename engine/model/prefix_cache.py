"""Which beginnings of prompts are kept, block by block, so that they are not computed twice. No torch here: this is
the index; the runner copies keys and values between blocks and slots.

A block is `BLOCK` tokens in a row. Blocks form a tree: a node is known by its parent and its own tokens, so equal
nodes mean equal beginnings, exactly, and a beginning that many share is kept once. Room is bounded; the node used
longest ago goes first. A use counts for the last block before those it follows, so that what goes is always an end of
the tree: a block whose beginning is gone could not be found again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

BLOCK = 16  # tokens

_Key = tuple[int, tuple[Hashable, ...]]


class PrefixCache:
    """Index of `num_blocks` blocks of keys and values. Belongs to the engine's thread."""

    def __init__(self, num_blocks: int) -> None:
        self._blocks: OrderedDict[_Key, tuple[int, int]] = OrderedDict()  # key -> (node, block), oldest use first
        self._free = list(range(num_blocks - 1, -1, -1))
        self._next_node = 1

    def match(self, keys: Sequence[Hashable]) -> list[int]:
        """Return the blocks that hold the longest known beginning of `keys`, always less than all of it."""
        path = self._walk(keys[: max(0, len(keys) - 1)])
        self._touch(path)
        return [self._blocks[key][1] for key in path]

    def insert(self, keys: Sequence[Hashable]) -> list[tuple[int, int]]:
        """Keep every whole block of `keys`; return (index of the block in `keys`, block to copy it to) for new ones."""
        path, new = self._walk(keys), []
        self._touch(path)
        node = self._blocks[path[-1]][0] if path else 0
        for index in range(len(path), len(keys) // BLOCK):
            if (block := self._take_block(len(path))) is None:
                break
            path.append((node, tuple(keys[index * BLOCK : (index + 1) * BLOCK])))
            node = self._next_node
            self._next_node += 1
            self._blocks[path[-1]] = (node, block)
            new.append((index, block))
        self._touch(path)
        return new

    def clear(self) -> None:
        """Forget everything."""
        self._free.extend(block for _, block in self._blocks.values())
        self._blocks.clear()

    def __len__(self) -> int:
        return len(self._blocks)

    def _walk(self, keys: Sequence[Hashable]) -> list[_Key]:
        """Return the known whole blocks of `keys`, from the root on."""
        path: list[_Key] = []
        node = 0
        for start in range(0, len(keys) - BLOCK + 1, BLOCK):
            key = (node, tuple(keys[start : start + BLOCK]))
            if (found := self._blocks.get(key)) is None:
                break
            path.append(key)
            node = found[0]
        return path

    def _touch(self, path: list[_Key]) -> None:
        for key in reversed(path):
            self._blocks.move_to_end(key)

    def _take_block(self, in_use: int) -> int | None:
        """Return a free block, or the one used longest ago; None where the `in_use` last used are all there are."""
        if self._free:
            return self._free.pop()
        if len(self._blocks) <= in_use:
            return None
        _, (_, block) = self._blocks.popitem(last=False)
        return block
