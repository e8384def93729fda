"""Which beginnings of prompts are kept, block by block, so that they are not computed twice. No torch here: this is
the index; the runner copies keys and values between blocks and slots.

A block is `BLOCK` tokens in a row. Blocks form a tree: a node is known by its parent and its own tokens, so equal
nodes mean equal beginnings, exactly, and a beginning that many share is kept once. Room is bounded; the node used
longest ago goes first.
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
        blocks = []
        node = 0
        for start in range(0, len(keys) - BLOCK, BLOCK):
            key = (node, tuple(keys[start : start + BLOCK]))
            found = self._blocks.get(key)
            if found is None:
                break
            self._blocks.move_to_end(key)
            node, block = found
            blocks.append(block)
        return blocks

    def insert(self, keys: Sequence[Hashable]) -> list[tuple[int, int]]:
        """Keep every whole block of `keys`; return (index of the block in `keys`, block to copy it to) for new ones."""
        new = []
        node = 0
        for index in range(len(keys) // BLOCK):
            key = (node, tuple(keys[index * BLOCK : (index + 1) * BLOCK]))
            found = self._blocks.get(key)
            if found is None:
                if (block := self._take_block()) is None:
                    break
                found = (self._next_node, block)
                self._next_node += 1
                new.append((index, block))
            self._blocks[key] = found
            self._blocks.move_to_end(key)
            node = found[0]
        return new

    def clear(self) -> None:
        """Forget everything."""
        self._free.extend(block for _, block in self._blocks.values())
        self._blocks.clear()

    def __len__(self) -> int:
        return len(self._blocks)

    def _take_block(self) -> int | None:
        if self._free:
            return self._free.pop()
        if not self._blocks:
            return None
        _, (_, block) = self._blocks.popitem(last=False)
        return block
