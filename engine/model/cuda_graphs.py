"""A decode step of fixed shape, row r for slot r, which a CUDA graph can hold.

Launching the thousand and more kernels of a step one by one takes the host longer than the GPU needs to run them; a
graph launches them as one. It needs every shape and address to stay: so the rows are the slots from 0 up to a bucket,
the cache is read up to a bucket of lengths under a mask made inside from the positions, and a slot that takes no part
writes where nothing is yet (position 0 of a free slot, the next place of one that is still reading its prompt).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.decoder import Decoder
from engine.model.kv_cache import KVCache
from engine.model.sampler import to_device
from engine.types import Progress

FEWEST_ROWS = (1, 2, 4, 8, 16)
ROWS_STEP = 16  # from 16 rows up, buckets are this far apart
SHORTEST = 256  # tokens; length buckets double from here
WARM_UP_RUNS = 2  # before a capture, so that every library has its workspace


class DecodeGraph:
    """One bucket: `rows` slots, the first `length` tokens of each.

    token_ids, positions and rope_positions [rows] are read at each `compute`; positions are places in the slot,
    rope_positions what rotary embedding sees (they differ behind a picture).
    """

    def __init__(self, decoder: Decoder, cache: KVCache, rows: int, length: int) -> None:
        self._decoder, self._cache, self._rows, self._length = decoder, cache, rows, length
        self._inputs = torch.zeros(3, rows, dtype=torch.long, device=decoder.device)
        self._slots = torch.arange(rows, device=decoder.device)
        self._ends = torch.arange(length, device=decoder.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    @torch.inference_mode()
    def run(self, inputs: Tensor, token_ids: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the logits [rows, vocabulary] of inputs [3, rows] on the host: ids, positions, rope positions.

        token_ids: [n] on the device, taken in place of the ids of the rows `index` (None: the first n).
        """
        self._inputs.copy_(inputs, non_blocking=True)
        if token_ids is not None and index is None:
            self._inputs[0, : len(token_ids)] = token_ids
        elif token_ids is not None and index is not None:
            self._inputs[0].index_copy_(0, index, token_ids)
        if self._graph is None:
            return self._compute()
        self._graph.replay()  # pragma: no cover - CUDA
        assert self._logits is not None  # pragma: no cover - CUDA
        return self._logits  # pragma: no cover - CUDA

    @torch.inference_mode()
    def capture(self, pool: Any, logits: Tensor) -> None:  # pragma: no cover - CUDA
        """Record the step as a CUDA graph that writes `logits` [rows, vocabulary]; its memory comes from `pool`."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits.copy_(self._compute())
        self._graph, self._logits = graph, logits

    def _compute(self) -> Tensor:
        token_ids, positions, rope_positions = self._inputs
        hidden = self._decoder.embed(token_ids)
        slot_mapping = self._cache.slot_mapping(self._slots, positions)
        mask = torch.where(self._ends <= positions[:, None], 0.0, float("-inf")).to(hidden.dtype)[:, None, None]

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            self._cache.write(layer, slot_mapping, kv)
            keys = self._cache.keys[layer][: self._rows, :, : self._length]
            values = self._cache.values[layer][: self._rows, :, : self._length]
            rows = q.unflatten(1, (keys.shape[1], -1))
            return F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).reshape(self._rows, -1)

        return self._decoder.logits(self._decoder.forward(hidden, self._decoder.rotary(rope_positions), attend))


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One token to decode: where it lies in its slot, and what rotary embedding sees."""

    slot: int
    token_id: int
    position: int
    rope_position: int


class DecodeGraphs:
    """Every bucket of `DecodeGraph` up to the cache's size; on CUDA each is captured, with progress told."""

    def __init__(self, decoder: Decoder, cache: KVCache, report: Callable[[Progress], None]) -> None:
        self._device = decoder.device
        self.longest = cache.length
        self._rows = row_buckets(cache.slots)
        self._lengths = length_buckets(cache.length)
        self._steps: dict[tuple[int, int], DecodeGraph] = {}
        on_cuda = decoder.device.type == "cuda"
        # Two, in turn: the copy to the device may still be reading the one of the step before.
        self._staging = [torch.zeros(3, cache.slots, dtype=torch.long, pin_memory=on_cuda) for _ in range(2)]
        pool = torch.cuda.graph_pool_handle() if on_cuda else None
        # One for all: a step's logits are sampled, on the same stream, before the next step writes its own.
        logits = torch.empty(cache.slots if on_cuda else 0, decoder.vocab_size, device=decoder.device)
        # The largest first: later captures then reuse its memory.
        buckets = [(rows, length) for rows in reversed(self._rows) for length in reversed(self._lengths)]
        for done, (rows, length) in enumerate(buckets):
            step = self._steps[rows, length] = DecodeGraph(decoder, cache, rows, length)
            if on_cuda:  # pragma: no cover - CUDA
                report(Progress(f"capturing CUDA graphs, {done} of {len(buckets)}"))
                step.capture(pool, logits[:rows])

    def run(
        self, rows: Sequence[DecodeRow], others: Sequence[tuple[int, int]], token_ids: Tensor | None = None
    ) -> Tensor:
        """Return logits [len(rows), vocabulary], one row for each of `rows`, which are sorted by slot.

        others: (slot, next position) of every other slot that is held; token_ids: [len(rows)] on the device, in place
        of the rows' own.
        """
        slots = [row.slot for row in rows]
        count = self._rows[bisect.bisect_left(self._rows, slots[-1] + 1)]
        beside = [(slot, position) for slot, position in others if slot < count]
        longest = max([row.position for row in rows] + [position for _, position in beside]) + 1
        length = self._lengths[bisect.bisect_left(self._lengths, longest)]
        self._staging.reverse()
        inputs = self._staging[0][:, :count].zero_()
        for slot, position in beside:
            inputs[1:, slot] = position
        slot_mapping = torch.tensor(slots)
        inputs[:, slot_mapping] = torch.tensor([(row.token_id, row.position, row.rope_position) for row in rows]).T
        index = None if slots[-1] + 1 == len(slots) else to_device(slot_mapping, self._device)
        logits = self._steps[count, length].run(inputs, token_ids, index)
        return logits[: len(slots)] if index is None else logits[index]


def row_buckets(slots: int) -> list[int]:
    """Return the row counts to prepare, ascending, the last one `slots`."""
    buckets = {rows for rows in FEWEST_ROWS if rows < slots} | set(range(2 * ROWS_STEP, slots, ROWS_STEP)) | {slots}
    return sorted(buckets)


def length_buckets(longest: int) -> list[int]:
    """Return the lengths to prepare in tokens, ascending, the last one `longest`."""
    buckets, length = [], SHORTEST
    while length < longest:
        buckets.append(length)
        length *= 2
    return [*buckets, longest]
