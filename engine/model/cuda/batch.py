"""The inputs of one flat step as the device reads them: one buffer of 32-bit numbers, sent to the device in one piece.

A step has a fixed number of tokens, its bucket, so that a CUDA graph can replay it. Tokens beyond the real ones are
padding: they write to the scrap block, no item of attention covers them, and no sampled row reads them. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.cuda.attention_plan import AttentionPlanner
from engine.schedule.block_pool import BLOCK
from engine.schedule.plan import Plan
from engine.schedule.sequence import BELOW_ONE, Sequence

Ints = NDArray[np.int32]
Buffer = Any  # an array of NumPy, or a tensor
PARAMETERS = 5  # of a row that samples

FEWEST_TOKENS = (1, 2, 4)
FINE_STEP, FINE_UNTIL = 8, 256  # GEMMs of that many tokens cost more with each few of them
COARSE_STEP = 16
LARGEST_GRAPH = 512  # tokens; a larger step has enough work for each kernel that launching them one by one costs little
EAGER_STEP = 64
# Each input begins at a multiple of so many numbers, 16 bytes: Triton compiles kernels anew for pointers that do not.
ALIGNMENT = 4


def graph_buckets(longest: int = LARGEST_GRAPH) -> list[int]:
    """Return the numbers of tokens that have a graph, ascending, none above `longest`."""
    fine = range(FINE_STEP, FINE_UNTIL + 1, FINE_STEP)
    coarse = range(FINE_UNTIL + COARSE_STEP, LARGEST_GRAPH + 1, COARSE_STEP)
    return [tokens for tokens in (*FEWEST_TOKENS, *fine, *coarse) if tokens <= longest]


def bucket_of(tokens: int) -> int:
    """Return the number of tokens that a step of `tokens` tokens is padded to."""
    buckets = graph_buckets()
    if tokens <= buckets[-1]:
        return next(bucket for bucket in buckets if bucket >= tokens)
    return -(-tokens // EAGER_STEP) * EAGER_STEP


def all_buckets(longest: int) -> list[int]:
    """Return the numbers of tokens that steps of at most `longest` tokens are padded to, ascending."""
    last = bucket_of(longest)
    return [*graph_buckets(last), *range(LARGEST_GRAPH + EAGER_STEP, last + 1, EAGER_STEP)]


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Sizes that hold for every step. rows: running sequences at most; blocks: of the longest sequence."""

    rows: int
    blocks: int
    planner: AttentionPlanner


@dataclass(frozen=True, slots=True)
class InputLayout:
    """Where each input of a step of `tokens` tokens lies in the buffer, in numbers of 32 bits.

    Of each row that samples a token: rows: the row of its sequence, -1 for none; numbers: its uniform random number,
    float32; parameters: see `sampling.parameters_of`, float32. These lie at the same place in steps of every size.
    ids: token ids, or -1 - row for the token that the step before samples for this row; slot_mapping: where keys and
    values go; rope: positions for rotary embedding, [3, tokens]; keep: the token whose logits each sampled row uses;
    items, merges: see `attention_plan`; updates: (place in the block tables, block) of blocks that are new to a row.
    """

    tokens: int
    sizes: StepSizes

    @property
    def sampled(self) -> int:
        """The most rows that sample a token in one step."""
        return min(self.tokens, self.sizes.rows)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The inputs by name with their shapes, in the order of the buffer."""
        tokens, rows, planner = self.tokens, self.sizes.rows, self.sizes.planner
        return {
            "rows": (rows,),
            "numbers": (rows,),
            "parameters": (rows, PARAMETERS),
            "ids": (tokens,),
            "slot_mapping": (tokens,),
            "rope": (3, tokens),
            "keep": (self.sampled,),
            "items": (planner.max_items(tokens), 8),
            "merges": (planner.max_merges(tokens), 4),
            "updates": (2, tokens),
        }

    @property
    def size(self) -> int:
        """The size of the buffer, in numbers."""
        return sum(_aligned(math.prod(shape)) for shape in self.shapes.values())

    def views(self, buffer: Buffer) -> dict[str, Buffer]:
        """Return the inputs by name as views of a buffer, an array of NumPy or a tensor."""
        views, first = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            views[name] = buffer[first : first + size].reshape(shape)
            first += _aligned(size)
        return views


class StepInputs:
    """The inputs of one step in host memory. buffer: int32 [layout.size] or more, which this fills."""

    def __init__(self, layout: InputLayout, buffer: Ints) -> None:
        self.layout, self.buffer = layout, buffer[: layout.size]
        self._views = layout.views(buffer)

    def __getitem__(self, name: str) -> Ints:
        view: Ints = self._views[name]
        return view

    def fill(self, plan: Plan, tables: RowTables) -> list[Sequence]:
        """Write the inputs of a step; return the sequences that sample a token in it, in the order of their rows."""
        self.buffer.fill(0)
        self["rows"].fill(-1)
        self["updates"][0].fill(tables.scrap)
        starts = [sequence.num_computed for sequence in plan.decode]
        self._fill_decode(plan.decode, starts)
        spans = [(row, 1, s.slot, start) for row, (s, start) in enumerate(zip(plan.decode, starts, strict=True))]
        done, keep, token = list(plan.decode), list(range(len(plan.decode))), len(plan.decode)
        for sequence, count in plan.prefill:
            start = sequence.num_computed
            self._fill_chunk(sequence, token, start, count)
            spans.append((token, count, sequence.slot, start))
            token += count
            if count == sequence.remaining:
                done.append(sequence)
                keep.append(token - 1)
        self["keep"][: len(done)] = keep
        rows = [sequence.slot for sequence in done]
        self["rows"][: len(done)] = rows
        self["numbers"].view(np.float32)[: len(done)] = numbers_of(done)
        self["parameters"].view(np.float32)[: len(done)] = tables.parameters[rows]
        first_tokens, counts, slots, positions = np.array(spans, dtype=np.int32).T
        planner = self.layout.sizes.planner
        planner.plan(first_tokens, counts, slots, positions, self["items"], self["merges"])
        tables.take_updates(plan, self["updates"])
        return done

    def _fill_decode(self, decode: list[Sequence], starts: list[int]) -> None:
        """Write one token of each sequence: its last one, or the one that the step before samples."""
        rows = len(decode)
        blocks = [s.blocks[start // BLOCK] * BLOCK + start % BLOCK for s, start in zip(decode, starts, strict=True)]
        self["ids"][:rows] = [-1 - s.slot if s.pending else s.token_ids[-1] for s in decode]
        self["slot_mapping"][:rows] = blocks
        self["rope"][:, :rows] = [start + s.rope_delta for s, start in zip(decode, starts, strict=True)]
        for row, (sequence, start) in enumerate(zip(decode, starts, strict=True)):
            if start < sequence.num_prompt and sequence.positions is not None:
                self["rope"][:, row] = sequence.positions[:, start].numpy()

    def _fill_chunk(self, sequence: Sequence, token: int, start: int, count: int) -> None:
        """Write `count` tokens of a prompt, or of what was computed before a preemption, from position `start`."""
        end, where = start + count, slice(token, token + count)
        positions = np.arange(start, end, dtype=np.int32)
        blocks = np.array(sequence.blocks[start // BLOCK : (end - 1) // BLOCK + 1], dtype=np.int32)
        self["ids"][where] = sequence.token_ids[start:end]
        self["slot_mapping"][where] = blocks[positions // BLOCK - start // BLOCK] * BLOCK + positions % BLOCK
        self["rope"][:, where] = positions + sequence.rope_delta
        if sequence.positions is not None and start < sequence.num_prompt:
            prompt = sequence.positions[:, start : min(end, sequence.num_prompt)].numpy()
            self["rope"][:, token : token + prompt.shape[1]] = prompt


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def numbers_of(sequences: list[Sequence]) -> list[float]:
    """Return the random numbers with which rows draw their next tokens, those of greedy rows 0."""
    return [
        min(sequence.uniform(sequence.pending), BELOW_ONE) if sequence.sampling.temperature > 0 else 0.0
        for sequence in sequences
    ]


@dataclass(slots=True)
class _Known:
    order: int  # of the sequence's start
    blocks: list[int]
    count: int  # of the blocks that the device knows


class RowTables:
    """What the host remembers of each row: its sampling parameters, and which blocks the device knows.

    The block tables on the device are [rows + 1, blocks]; the last row is scrap. parameters: float32 [rows, 5].
    """

    def __init__(self, sizes: StepSizes, parameters_of: Callable[[list[Sequence]], NDArray[np.float32]]) -> None:
        self._sizes, self._parameters_of = sizes, parameters_of
        self.scrap = sizes.rows * sizes.blocks
        self.parameters = np.zeros((sizes.rows, PARAMETERS), np.float32)
        self._known: dict[int, _Known] = {}

    def take_new(self, plan: Plan) -> list[Sequence]:
        """Return the sequences whose whole block table is to be copied: their row, or the table, is new to them."""
        new = []
        for sequence, _ in plan.rows:
            known = self._known.get(sequence.slot)
            if known is None or known.order != sequence.order or known.blocks is not sequence.blocks:
                self._known[sequence.slot] = _Known(sequence.order, sequence.blocks, len(sequence.blocks))
                new.append(sequence)
        if new:
            self.parameters[[sequence.slot for sequence in new]] = self._parameters_of(new)
        return new

    def take_updates(self, plan: Plan, updates: Ints) -> None:
        """Write the blocks that sequences have got since, [2, n]: place in the tables, and block."""
        count = 0
        for sequence, _ in plan.rows:
            known, blocks = self._known[sequence.slot], sequence.blocks
            while known.count < len(blocks):
                updates[0, count] = sequence.slot * self._sizes.blocks + known.count
                updates[1, count] = blocks[known.count]
                known.count, count = known.count + 1, count + 1

    def forget(self) -> None:
        """Forget everything, as after a step that may not have reached the device."""
        self._known.clear()
