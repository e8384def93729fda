"""Which program of paged attention reads which keys: plans one step into items and merges, with NumPy alone.

An item is the attention of consecutive query tokens of one sequence over a range of its keys. A chunk of a prompt
becomes tiles of `tile_tokens` tokens. Tiles with many more keys than the others are split into parts ("flash
decoding"), each an item that writes a partial result; a merge joins the parts of one tile. The grids have fixed sizes,
so that a CUDA graph can replay them: the plan fills the rest with idle items and merges (`tokens` = 0).

items: int32 [W, 8], (first_token, tokens, table_row, first_position, key_start, key_end, partial, merge). The query
tokens are rows `first_token` ... of q, at positions `first_position` ... of the sequence in row `table_row` of the
block tables; they attend to keys [key_start, key_end) up to their own position. partial: the first of `tokens` rows of
the scratch that hold the partial result, one row for each token; merge: the index of its merge; -1 both for an item
that is the only part of its tile.
merges: int32 [M, 4], (first_token, tokens, first_partial, parts). Part j of token t is in row
`first_partial + j * tokens + t` of the scratch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

TILE_ROWS = 64  # query rows (tokens x heads of a group) that one program of a chunk computes
PART_KEYS = 256  # shortest part: below, a part costs more to start and to merge than to read
KEY_STEP = 64  # parts start at multiples of it, which the key tiles of the kernel divide
MULTIPROCESSORS = 132  # of an H100 and an H200, assumed where there is no card
PROGRAMS = 2  # for each multiprocessor, so that one reads while another starts or ends
SLACK = 1.25  # a tile is left whole if it is longer than a part by no more than this


class AttentionPlanner:
    """Plans the steps of one model on one device.

    multiprocessors: of the device; the plan gives work to all of them as far as `part_keys` allows. max_num_seqs: the
    most sequences of a step, which bounds its items. tile_rows is the kernel's.
    """

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        multiprocessors: int = MULTIPROCESSORS,
        max_num_seqs: int | None = None,
        *,
        tile_rows: int = TILE_ROWS,
        part_keys: int = PART_KEYS,
        programs: int = PROGRAMS,
    ) -> None:
        self.tile_tokens = tile_rows // (heads // kv_heads)
        self.max_splits = -(-programs * multiprocessors // kv_heads)
        self._max_num_seqs, self._shortest = max_num_seqs, part_keys

    def max_items(self, total_tokens: int) -> int:
        """Return W, the most items of a step of this many tokens."""
        return self._max_tiles(total_tokens) + self.max_splits

    def max_merges(self, total_tokens: int) -> int:
        """Return M, the most merges of a step of this many tokens."""
        return min(self._max_tiles(total_tokens), self.max_splits)

    def max_partials(self, total_tokens: int) -> int:
        """Return the most rows of the scratch that a step of this many tokens uses."""
        return total_tokens + min(total_tokens, self.tile_tokens) * self.max_splits

    def _max_tiles(self, total_tokens: int) -> int:
        if self._max_num_seqs is None:
            return total_tokens
        return min(total_tokens, self._max_num_seqs + total_tokens // self.tile_tokens)

    def plan(
        self, first_tokens: Ints, tokens: Ints, table_rows: Ints, starts: Ints, items: Ints, merges: Ints
    ) -> tuple[int, int]:
        """Plan a step over S sequences into `items` and `merges`; return how many of each are in use.

        first_tokens, tokens, table_rows, starts: [S]; the sequence's first row of q, its tokens in this step (at least
        one), its row of the block tables and the position of its first token. Raises ValueError if the plan does not
        fit, which the capacities above rule out.
        """
        if tokens.max(initial=0) > 1:
            first_tokens, tokens, table_rows, starts = self._tiles(first_tokens, tokens, table_rows, starts)
        keys = starts + tokens
        part_keys = self._part_keys(int(keys.sum()))
        if keys.max(initial=0) <= SLACK * part_keys:
            columns: tuple[Ints, ...] = (first_tokens, tokens, table_rows, starts, np.zeros_like(keys), keys)
            merged = 0
            columns += (np.full_like(keys, -1),) * 2
        else:
            columns, merged = _split(first_tokens, tokens, table_rows, starts, keys, part_keys, merges)
        used = len(columns[0])
        if used > len(items):
            raise ValueError(f"{used} attention items do not fit {len(items)}")
        longest_first = np.argsort(columns[4] - columns[5], kind="stable")  # no long item ends the step alone
        for column, values in enumerate(columns):
            items[:used, column] = values[longest_first]
        items[used:, 1] = 0
        merges[merged:, 1] = 0
        return used, merged

    def _tiles(self, first_tokens: Ints, tokens: Ints, table_rows: Ints, starts: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the tiles of the sequences, as sequences of at most `tile_tokens` tokens."""
        tiles = -(-tokens // self.tile_tokens)
        offsets = _counts_up(tiles) * self.tile_tokens
        left = np.repeat(tokens, tiles) - offsets
        return (
            np.repeat(first_tokens, tiles) + offsets,
            np.minimum(left, self.tile_tokens),
            np.repeat(table_rows, tiles),
            np.repeat(starts, tiles) + offsets,
        )

    def _part_keys(self, total_keys: int) -> int:
        """Return the length of a part: the parts exceed the tiles in number by at most `max_splits`."""
        share = -(-total_keys // self.max_splits)
        return max(self._shortest, -(-share // KEY_STEP) * KEY_STEP)


def _split(
    first_tokens: Ints, tokens: Ints, table_rows: Ints, starts: Ints, keys: Ints, part_keys: int, merges: Ints
) -> tuple[tuple[Ints, ...], int]:
    """Split tiles into parts of about `part_keys` keys.

    Fills `merges`; returns the columns of the items, and the number of merges.
    """
    wanted = np.maximum(np.ceil(keys / part_keys - (SLACK - 1)), 1).astype(np.int32)
    sizes = -(-keys // (wanted * KEY_STEP)) * KEY_STEP
    parts = -(-keys // sizes)
    rows = np.where(parts > 1, parts * tokens, 0)
    first_partials = np.cumsum(rows, dtype=np.int32) - rows
    split = np.flatnonzero(rows)
    if len(split) > len(merges):
        raise ValueError(f"{len(split)} attention merges do not fit {len(merges)}")
    for column, values in enumerate((first_tokens, tokens, first_partials, parts)):
        merges[: len(split), column] = values[split]
    tile, part = np.repeat(np.arange(len(keys)), parts), _counts_up(parts)
    key_starts = part * sizes[tile]
    key_ends = np.minimum(key_starts + sizes[tile], keys[tile])
    partials = np.where(parts[tile] > 1, first_partials[tile] + part * tokens[tile], -1)
    merge_of = np.full(len(keys), -1, dtype=np.int32)
    merge_of[split] = np.arange(len(split), dtype=np.int32)
    chosen = (values[tile] for values in (first_tokens, tokens, table_rows, starts))
    return (*chosen, key_starts, key_ends, partials, merge_of[tile]), len(split)


def _counts_up(counts: Ints) -> Ints:
    """Return 0 ... n - 1 for each n of `counts`, joined."""
    ends = np.cumsum(counts, dtype=np.int32)
    return np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - counts, counts)
