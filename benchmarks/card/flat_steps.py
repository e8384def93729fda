"""The flat step on both real shapes: what capturing costs, each CUDA graph against eager launches, and their times."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.card.timing import once, synchronize
from benchmarks.cuda_step import Row as StepRow
from benchmarks.cuda_step import bytes_of, weights_of
from benchmarks.harness.bandwidth import copy_bandwidth, floor_seconds
from engine.model.cuda.batch import graph_buckets
from engine.model.cuda.step import FlatStep
from engine.model.cuda.tuning import Tuning
from engine.model.cuda.weights import FlatWeights
from engine.model.kv_cache import KVCache
from engine.schedule.block_pool import BLOCK
from engine.schedule.plan import Plan

ROWS, LONGEST_STEP = 256, 2048
CONTEXTS = (50, 550)
LONG_CONTEXT = 2100  # of one row
REPEATS = 10
EAGER_STEPS = (1024, 2048)  # tokens, larger than any graph
# Of the greatest logit. Both launch the same kernels; only a library may choose another product for a capture.
TOLERANCE = 1e-3


class Steps:
    """Sequences with random keys and values in a cache, and plans over them for steps of any number of tokens."""

    def __init__(
        self,
        weights: FlatWeights,
        rows: int,
        longest_step: int,
        long_context: int = LONG_CONTEXT,
        top_p: float = 0.9,
    ) -> None:
        self.weights, self.rows, self.longest_step, shape = weights, rows, longest_step, weights.shape
        sampling = SimpleNamespace(temperature=0.7, top_k=0, top_p=top_p, min_p=0.0, logprobs=None, token_mask=None)
        rng = random.Random(0)
        contexts = [long_context, *(min(long_context, rng.randint(*CONTEXTS)) for _ in range(rows - 2))]
        self.longest = max(long_context, longest_step) + BLOCK
        counts = [-(-(context + BLOCK) // BLOCK) for context in contexts] + [-(-self.longest // BLOCK)]
        self.cache = KVCache(shape.layers, 1 + sum(counts), shape.kv_heads, shape.head_dim, shape.dtype, shape.device)
        for layer in self.cache.layers:
            layer.normal_()
        order = list(range(1, 1 + sum(counts)))
        rng.shuffle(order)
        self._rows = []
        for slot, count in enumerate(counts):
            blocks, order = order[:count], order[count:]
            length = contexts[slot] if slot < len(contexts) else longest_step
            ids = [rng.randrange(shape.vocabulary) for _ in range(length)]
            self._rows.append(StepRow(slot, length, blocks, ids, length - 1, 1, sampling=sampling))

    def plan(self, tokens: int) -> Plan:
        """Return a step of so many tokens: decode rows, and a chunk where they are not enough."""
        decode = min(tokens, 64 if tokens > 128 else 128, len(self._rows) - 1)
        rows: Any = list(self._rows[:decode])
        if tokens == decode:
            return Plan(rows, [])
        reader: Any = self._rows[-1]
        reader.num_computed, reader.token_ids = 0, reader.token_ids[: tokens - decode] or [1]
        reader.token_ids += [1] * (tokens - decode - len(reader.token_ids))
        return Plan(rows, [(reader, tokens - decode)])

    def step(self, rows: int, longest_step: int, graphs: bool, tuning: Tuning | None = None) -> FlatStep:
        """Return a flat step over the weights and the cache."""
        return FlatStep(
            self.weights, self.cache, rows, longest_step, self.longest, lambda progress: None, graphs, tuning
        )  # fmt: skip


def flat_steps(options: Options) -> Rows:
    """Yield what capturing costs, then for each number of tokens the times of both launches and their difference."""
    bandwidth = copy_bandwidth(options.device)
    rows, longest = options.pick(ROWS, 4), options.pick(LONGEST_STEP, 16)
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    for name in ("tiny",) if options.tiny else ("8b", "7b"):
        weights = weights_of(name, options.device, dtype)
        steps = Steps(weights, rows, longest, options.pick(LONG_CONTEXT, 40))
        before, began = _used(options), time.perf_counter()
        captured = steps.step(rows, longest, graphs=True)
        synchronize(options.device)
        yield (
            "capturing",
            {
                "model": name,
                "graphs": len(graph_buckets(longest)),
                "seconds": time.perf_counter() - began,
                "GB": (_used(options) - before) / 1e9,
            },
        )
        eager = steps.step(rows, longest, graphs=False)
        buckets = [*graph_buckets(longest), *(EAGER_STEPS if not options.tiny else ())]
        for tokens in buckets:
            row = _compare(steps.plan(tokens), captured, eager, options)
            floor = floor_seconds(bytes_of(weights), 0.0, bandwidth) * 1e3
            yield "steps", {"model": name, "tokens": tokens, **row, "reading the weights, ms": floor}
            difference, greatest = (float(str(row[key])) for key in ("difference", "greatest logit"))
            if row["finite"] != "True" or not difference <= TOLERANCE * greatest or not greatest:
                yield problem(f"{name}, {tokens} tokens: the graph gives other logits than the launches, or none")
        del weights, steps, captured, eager


def differences(plan: Plan, captured: FlatStep, eager: FlatStep, device: str) -> tuple[float, float, bool]:
    """Return the greatest difference of a step's logits by both, the greatest logit, and whether all are finite."""
    found = []
    for step in (captured, eager):
        step.forget()
        sampled = len(step.launch(plan).collect())
        synchronize(device)
        found.append(step.logits[:sampled].clone())
    finite = all(bool(torch.isfinite(logits).all()) for logits in found)
    return float((found[0] - found[1]).abs().max()), float(found[1].abs().max()), finite


def _compare(plan: Plan, captured: FlatStep, eager: FlatStep, options: Options) -> Row:
    difference, greatest, finite = differences(plan, captured, eager, options.device)
    repeats = options.pick(REPEATS, 1)
    row: Row = {"decode rows": len(plan.decode)}
    for name, step in (("graph", captured), ("eager", eager)):
        done = [once(lambda step=step: step.launch(plan), options.device) for _ in range(repeats)]  # type: ignore[misc]
        row[f"{name}, ms"] = statistics.median(done) * 1e3
    row["launching, host ms"] = _host_seconds(captured, plan, repeats, options) * 1e3
    return row | {"difference": difference, "greatest logit": greatest, "finite": str(finite)}


def _host_seconds(step: FlatStep, plan: Plan, repeats: int, options: Options) -> float:
    seconds: Sequence[float] = []
    for _ in range(repeats):
        synchronize(options.device)
        began = time.perf_counter()
        step.launch(plan)
        seconds = [*seconds, time.perf_counter() - began]
    return statistics.median(seconds)


def _used(options: Options) -> int:
    if options.device != "cuda":
        return 0
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)
