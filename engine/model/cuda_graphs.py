"""Decode steps of fixed shape, row r for slot r, that can be captured as CUDA graphs.

Launching the more than thousand kernels of a step one by one takes the host longer than the GPU needs to run them; a
graph launches them as one. A graph needs fixed shapes and addresses, so the row count is rounded up to a bucket of
slots starting at 0, and the cache is read up to a bucket of lengths, under a mask computed in the step from the
positions. A slot in the bucket that does not decode writes to a position that holds nothing yet: position 0 of a free
slot, the next position of a slot whose prompt is still being read.
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
from engine.model.kv_cache import SlotCache
from engine.model.sampler import to_device
from engine.types import Progress

FEWEST_ROWS = (1, 2, 4, 8, 16)
ROWS_STEP = 16  # distance between buckets above 16 rows
SHORTEST = 256  # tokens; each length bucket is twice the one before
WARM_UP_RUNS = 2  # before a capture, so that every library has allocated its workspace


class DecodeGraph:
    """The decode step of one bucket: `rows` slots, the first `length` tokens of each."""

    def __init__(self, decoder: Decoder, cache: SlotCache, rows: int, length: int) -> None:
        self._decoder, self._cache, self._rows, self._length = decoder, cache, rows, length
        self._inputs = torch.zeros(3, rows, dtype=torch.long, device=decoder.device)
        self._slots = torch.arange(rows, device=decoder.device)
        self._ends = torch.arange(length, device=decoder.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    @torch.inference_mode()
    def run(self, inputs: Tensor, token_ids: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the logits [rows, vocabulary] of one step.

        inputs: int64 [3, rows] on the host: token ids, positions in the slot, and positions for rotary embedding, which
        differ from the former after an image. token_ids: [n] on the device, used instead of the ids of the rows `index`
        (None: of the first n rows).
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
        """Capture the step as a CUDA graph that writes `logits` [rows, vocabulary]; its memory comes from `pool`."""
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
    """One token to decode. position: in its slot; rope_position: what rotary embedding uses."""

    slot: int
    token_id: int
    position: int
    rope_position: int


class DecodeGraphs:
    """One `DecodeGraph` per bucket, up to the size of the cache. On CUDA each is captured, with progress reports."""

    def __init__(self, decoder: Decoder, cache: SlotCache, report: Callable[[Progress], None]) -> None:
        self._device = decoder.device
        self.longest = cache.length
        self._rows = row_buckets(cache.slots)
        self._lengths = length_buckets(cache.length)
        self._graphs: dict[tuple[int, int], DecodeGraph] = {}
        on_cuda = decoder.device.type == "cuda"
        # Two buffers in alternation: the copy of the previous step may still be reading its own.
        self._staging = [torch.zeros(3, cache.slots, dtype=torch.long, pin_memory=on_cuda) for _ in range(2)]
        pool = torch.cuda.graph_pool_handle() if on_cuda else None
        # Shared by all graphs: on the stream, logits are sampled before the next step writes.
        logits = torch.empty(cache.slots if on_cuda else 0, decoder.vocab_size, device=decoder.device)
        # Largest first: later captures reuse its memory.
        buckets = [(rows, length) for rows in reversed(self._rows) for length in reversed(self._lengths)]
        for done, (rows, length) in enumerate(buckets):
            graph = self._graphs[rows, length] = DecodeGraph(decoder, cache, rows, length)
            if on_cuda:  # pragma: no cover - CUDA
                report(Progress(f"capturing CUDA graphs, {done} of {len(buckets)}"))
                graph.capture(pool, logits[:rows])

    def run(
        self, rows: Sequence[DecodeRow], others: Sequence[tuple[int, int]], token_ids: Tensor | None = None
    ) -> Tensor:
        """Return the logits [len(rows), vocabulary] of `rows`, which are sorted by slot.

        others: (slot, next position) of every other slot in use. token_ids: [len(rows)] on the device, used instead of
        the token ids in `rows`.
        """
        slots = [row.slot for row in rows]
        count = self._rows[bisect.bisect_left(self._rows, slots[-1] + 1)]
        idle = [(slot, position) for slot, position in others if slot < count]
        longest = max([row.position for row in rows] + [position for _, position in idle]) + 1
        length = self._lengths[bisect.bisect_left(self._lengths, longest)]
        self._staging.reverse()
        inputs = self._staging[0][:, :count].zero_()
        for slot, position in idle:
            inputs[1:, slot] = position
        slot_index = torch.tensor(slots)
        inputs[:, slot_index] = torch.tensor([(row.token_id, row.position, row.rope_position) for row in rows]).T
        index = None if slots[-1] + 1 == len(slots) else to_device(slot_index, self._device)
        logits = self._graphs[count, length].run(inputs, token_ids, index)
        return logits[: len(slots)] if index is None else logits[index]


def row_buckets(slots: int) -> list[int]:
    """Return the row counts of the buckets, ascending; the last is `slots`."""
    buckets = {rows for rows in FEWEST_ROWS if rows < slots} | set(range(2 * ROWS_STEP, slots, ROWS_STEP)) | {slots}
    return sorted(buckets)


def length_buckets(longest: int) -> list[int]:
    """Return the lengths of the buckets in tokens, ascending; the last is `longest`."""
    buckets, length = [], SHORTEST
    while length < longest:
        buckets.append(length)
        length *= 2
    return [*buckets, longest]
