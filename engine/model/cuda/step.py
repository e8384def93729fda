"""Flat steps on CUDA: decode rows and chunks of prompts in one pass, replayed as CUDA graphs, one step ahead.

Launching the hundreds of kernels of a step one by one takes the host longer than the device needs for a few rows; a
graph launches them as one. A graph has a fixed number of tokens, so steps are rounded up to a bucket. Steps with more
tokens than the largest bucket, and those with images or with prompts whose tokens are scored, are launched kernel by
kernel.

Nothing here waits for the device: a step is launched, and the host collects its tokens after it has launched the next
one, which reads them on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from engine.errors import Message
from engine.model.choice import Choice
from engine.model.cuda.attention import AttentionWorkspace
from engine.model.cuda.attention_plan import AttentionPlanner
from engine.model.cuda.batch import InputLayout, RowTables, StepInputs, StepSizes, all_buckets, bucket_of, graph_buckets
from engine.model.cuda.choosing import Choices, Chooser
from engine.model.cuda.ends import embed_tokens
from engine.model.cuda.forward import FlatForward, FlatInputs
from engine.model.cuda.graphs import Graphs
from engine.model.cuda.packed_gemm import TOKEN_BLOCKS
from engine.model.cuda.sampling import parameters_of
from engine.model.cuda.scores import Scores
from engine.model.cuda.streams import Streams
from engine.model.cuda.tuning import Tuning, multiprocessors_of, tuning_for
from engine.model.cuda.weights import DecoderShape, FlatWeights
from engine.model.kv_cache import KVCache
from engine.model.sampler import to_device
from engine.schedule.block_pool import blocks_for
from engine.schedule.plan import Plan
from engine.schedule.prompt_scores import ScoredSpan, scored_spans
from engine.schedule.sequence import Sequence
from engine.types import Progress

# Writes the embeddings of images over those of their tokens in the hidden states [T, hidden] of a step.
InsertImages = Callable[[Tensor], None]
# Steps that no graph replays are launched once before the first request: every size up to the tokens of the largest
# tile, for each of which kernels may be compiled anew, and about so many of the others with the largest, since the
# libraries of torch load what they choose for a size when it is first used.
TILED_TOKENS = max(TOKEN_BLOCKS)
MOST_WARM_UPS = 32


@dataclass(slots=True)
class Launched:
    """A step that the device computes. sequences: those that sample a token, with the order of their start.

    arrived: waits until the device has done it; scores: the prompts whose tokens it scores; sample: launches the
    sampler where that is still to be done; returns the tokens on their way, and what waits for them.
    """

    sequences: list[tuple[Sequence, int]]
    choices: Choices | None
    arrived: Callable[[], None]
    scores: Scores | None = None
    sample: Callable[[], tuple[Choices, Callable[[], None]]] | None = None

    def choose(self) -> None:
        """Launch the sampler, if the step has been launched without it."""
        if self.sample is not None:
            sample, self.sample = self.sample, None
            self.choices, self.arrived = sample()

    def collect(self) -> list[tuple[Sequence, int, Choice]]:
        """Wait for the step; return each sequence with the order of its start at the launch, and its choice.

        A step without a result is waited for as well: until then the device may not have read its inputs.
        """
        self.arrived()
        if self.scores is not None:
            self.scores.collect()
        if self.choices is None:
            return []
        rows = zip(self.sequences, self.choices.collect(), strict=True)
        return [(sequence, order, choice) for (sequence, order), choice in rows]


@dataclass(frozen=True, slots=True)
class Captured:
    """What was captured: the numbers of tokens that have a graph, ascending; how long it took, and what it reserved."""

    tokens: tuple[int, ...] = ()
    seconds: float = 0.0
    nbytes: int = 0


class FlatStep:
    """Computes the steps of one model on its device. Used by the engine's thread only, which gets a stream of its own.

    rows: running sequences at most; longest_step, longest_context: in tokens; report: receives the progress of
    capturing; graphs: whether to capture; tuning: by default the fastest for the device.
    """

    def __init__(
        self,
        weights: FlatWeights,
        cache: KVCache,
        rows: int,
        longest_step: int,
        longest_context: int,
        report: Callable[[Progress], None],
        graphs: bool = True,
        tuning: Tuning | None = None,
    ) -> None:
        shape, self._weights = weights.shape, weights
        tuning = tuning or tuning_for(shape.device)
        device, on_cuda = shape.device, shape.device.type == "cuda"
        self._streams = Streams(device)
        self._arrived = self._streams.mark()  # of the last step that was launched
        self._longest_step, self._vocabulary = longest_step, shape.vocabulary
        self._sizes = StepSizes(rows, blocks_for(longest_context), planner_for(shape, rows, tuning.part_keys))
        largest = self._layout(longest_step)
        self._tables = RowTables(self._sizes, parameters_of)
        self._device_tables = torch.zeros(rows + 1, self._sizes.blocks, dtype=torch.int32, device=device)
        self._device_inputs = torch.zeros(largest.size, dtype=torch.int32, device=device)
        # Two in alternation: the step before may not have read its own yet. The one before that has been collected.
        self._staging = [torch.zeros(largest.size, dtype=torch.int32, pin_memory=on_cuda) for _ in range(2)]
        self._chooser = Chooser(largest.sampled, shape.vocabulary, device)
        partials = self._sizes.planner.max_partials(largest.tokens)
        workspace = AttentionWorkspace.empty(partials, shape.heads, shape.head_dim, device)
        self._forward = FlatForward(weights, cache, workspace, largest.tokens, tuning)
        self._graphs = Graphs()
        self.captured = Captured()
        if graphs and on_cuda:  # pragma: no cover - CUDA
            self._capture_all(graph_buckets(longest_step), report)

    @property
    def logits(self) -> Tensor:
        """The logits of the last step, float32 [rows, vocabulary]; of its sampled rows, adjusted where they ask."""
        return self._chooser.logits

    @torch.inference_mode()
    def launch(self, plan: Plan, insert_images: InsertImages | None = None) -> Launched:
        """Launch one step; return what collects its result. insert_images: given if the step has tokens of images."""
        layout = self._layout(len(plan.decode) + sum(count for _, count in plan.prefill))
        spans = scored_spans(plan)
        replayed = insert_images is None and not spans and layout.tokens in self._graphs
        try:
            with self._streams.turn(urgent=replayed):
                done = self._send_inputs(layout, plan)
                if replayed:
                    self._graphs.run(layout.tokens, lambda: None)  # pragma: no cover - CUDA
                else:
                    states = self._compute(layout, insert_images, [row for span in spans for row in span.rows])
                scores = self._launch_scores(spans, states) if spans else None
                # A grammar is told of the tokens before first, while the device computes.
                waits = any(sequence.pending and sequence.sampling.token_mask is not None for sequence in done)
                choices = self._choices(done, layout) if done and not waits else None
                self._arrived = self._streams.mark()
                rows = [(sequence, sequence.order) for sequence in done]
                sample = partial(self._sample, done, layout, replayed) if waits else None
                return Launched(rows, choices, self._arrived, scores, sample)
        except BaseException:
            self.forget()  # new blocks of its sequences may not have reached the device's tables
            raise

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Launch once what has no graph, so that no request waits for a kernel to be compiled."""
        sizes = [tokens for tokens in all_buckets(self._longest_step) if tokens not in self._graphs]
        few = {*sizes[:: -(-len(sizes) // MOST_WARM_UPS) or 1], *sizes[-1:]}
        few.update(tokens for tokens in sizes if tokens <= TILED_TOKENS)
        with self._streams.turn(urgent=False):
            self._device_inputs.zero_()
            for tokens in sorted(few, reverse=True):
                self._compute(self._layout(tokens))
            rows = self._layout(self._longest_step).sampled
            self._chooser.warm_up(rows, self._layout(1).views(self._device_inputs))
        self.forget()

    @torch.inference_mode()
    def check_sampler(self) -> None:
        """Raise StartError where the sampler or one of its graphs does not give the tokens that it should."""
        with self._streams.turn(urgent=False):
            self._chooser.check(self._layout(1).views(self._device_inputs))

    def forget(self) -> None:
        """Forget what the device knows of the block tables, as after a step that failed."""
        self._tables.forget()

    def discard(self) -> None:
        """Wait for what was launched, whose result nobody reads, and forget what the device knows."""
        self._arrived()
        self.forget()

    def _send_inputs(self, layout: InputLayout, plan: Plan) -> list[Sequence]:
        """Copy the inputs of a step to the device; return the sequences that sample a token in it."""
        self._staging.reverse()
        staging = self._staging[0][: layout.size]
        for sequence in self._tables.take_new(plan):
            self._copy_table(sequence)
        done = StepInputs(layout, staging.numpy()).fill(plan, self._tables)
        self._device_inputs[: layout.size].copy_(staging, non_blocking=True)
        return done

    @torch.inference_mode()
    def _sample(self, done: list[Sequence], layout: InputLayout, urgent: bool) -> tuple[Choices, Callable[[], None]]:
        """Launch the sampler of the step that was launched last; return its tokens, and what waits for them."""
        with self._streams.turn(urgent):
            choices = self._choices(done, layout)
            self._arrived = self._streams.mark()
            return choices, self._arrived

    def _choices(self, done: list[Sequence], layout: InputLayout) -> Choices:
        rows = self._bucket_of_rows(len(done))
        return self._chooser.choose(done, layout.views(self._device_inputs), rows)

    def _layout(self, tokens: int) -> InputLayout:
        return _layout(self._sizes, bucket_of(tokens))

    def _bucket_of_rows(self, rows: int) -> int:
        return min(bucket_of(rows), self._sizes.rows)

    def _compute(
        self, layout: InputLayout, insert_images: InsertImages | None = None, more: list[int] | None = None
    ) -> Tensor:
        """Compute the logits of the step whose inputs are on the device; return the hidden states of `more` tokens."""
        inputs = layout.views(self._device_inputs)
        embedding, tables, shape = self._weights.embedding, self._device_tables, self._weights.shape
        hidden = torch.empty(layout.tokens, shape.hidden, dtype=shape.dtype, device=shape.device)
        embed_tokens(inputs["ids"], self._chooser.last_tokens, embedding, inputs["updates"], tables, hidden)
        if insert_images is not None:
            insert_images(hidden)
        flat = FlatInputs(
            hidden=hidden,
            slot_mapping=inputs["slot_mapping"],
            rope=inputs["rope"],
            keep=torch.cat([inputs["keep"], self._to_index(more)]) if more else inputs["keep"],
            items=inputs["items"],
            merges=inputs["merges"],
            block_tables=self._device_tables,
        )
        return self._forward(flat, self._chooser.logits[: layout.sampled])

    def _launch_scores(self, spans: list[ScoredSpan], states: Tensor) -> Scores:
        return Scores.launch(spans, states, self._forward.logits, self._vocabulary, self._sizes.rows)

    def _to_index(self, rows: list[int]) -> Tensor:
        return to_device(torch.tensor(rows, dtype=torch.int32), self._device_inputs.device)

    def _copy_table(self, sequence: Sequence) -> None:
        table = torch.tensor(sequence.blocks, dtype=torch.int32)
        if self._device_tables.is_cuda:  # pragma: no cover - CUDA
            table = table.pin_memory()
        self._device_tables[sequence.slot, : len(table)].copy_(table, non_blocking=True)

    @torch.inference_mode()
    def _capture_all(self, buckets: list[int], report: Callable[[Progress], None]) -> None:  # pragma: no cover - CUDA
        """Capture a graph for each bucket, the largest first: the others reuse its memory."""
        device, began = self._device_inputs.device, time.perf_counter()
        reserved = torch.cuda.memory_reserved(device)
        self._device_inputs.zero_()
        for done, tokens in enumerate(reversed(buckets)):
            stage = Message("stage_graphs", "capturing CUDA graphs, {done} of {total}", done=done, total=len(buckets))
            report(Progress(stage))
            layout = self._layout(tokens)
            self._graphs.capture(tokens, partial(self._compute, layout))
        for rows in {self._bucket_of_rows(rows) for rows in buckets}:
            self._chooser.capture(rows, self._layout(1).views(self._device_inputs))
        seconds = time.perf_counter() - began
        self.captured = Captured(tuple(sorted(self._graphs)), seconds, torch.cuda.memory_reserved(device) - reserved)


@cache
def _layout(sizes: StepSizes, tokens: int) -> InputLayout:
    return InputLayout(tokens, sizes)


def planner_for(shape: DecoderShape, rows: int, part_keys: int) -> AttentionPlanner:
    """Return the planner of attention for a model on its device."""
    on_cpu = shape.device.type == "cpu"  # in the interpreter, which pays for idle items too
    multiprocessors = 4 if on_cpu else multiprocessors_of(shape.device)
    return AttentionPlanner(shape.heads, shape.kv_heads, multiprocessors, rows, part_keys=part_keys)
