"""Time the flat step on a GPU: weights of the real shapes with random values, no model library, no scheduler.

    python -m benchmarks.cuda_step [--shape 8b|7b|tiny] [--rows 1,8,64,128] [--chunk 0,256] [--context 300] [--profile]
    python -m benchmarks.cuda_step --variants plain,skinny,skinny+dependent --rows 1,8,16,64 --chunk 0

Each point launches steps one ahead, as the engine does, and prints the time of one step, tokens per second, the share
of the time that reading the weights takes at the copy bandwidth of this device, and the host's time to launch a step.
With --variants, each point is measured with each `Tuning`, and a table of them ends the output. A variant is "default",
or some of skinny, dependent, last (merges) and part64, part128, ... (keys of the shortest part) joined by +; "plain" is
none of them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.harness.command_line import whole_numbers
from engine.model.cuda.batch import LARGEST_GRAPH
from engine.model.cuda.formats import Quantized, Weight
from engine.model.cuda.fp8 import Fp8
from engine.model.cuda.step import FlatStep, Launched
from engine.model.cuda.tuning import Tuning
from engine.model.cuda.weights import DecoderShape, FlatWeights, LayerWeights, Placement
from engine.model.kv_cache import KVCache
from engine.schedule.block_pool import BLOCK
from engine.schedule.plan import Plan

SHAPES = {
    "8b": {"hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "layers": 36, "vocabulary": 151_936},
    "7b": {"hidden": 3584, "heads": 28, "kv_heads": 4, "head_dim": 128, "layers": 28, "vocabulary": 152_064},
    "tiny": {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "layers": 2, "vocabulary": 500},
}
FEED_FORWARD = {"8b": 12_288, "7b": 18_944, "tiny": 128}
WARM_UP = 5


@dataclass
class Row:
    """What a step reads of a sequence."""

    slot: int
    num_prompt: int
    blocks: list[int]
    token_ids: list[int]
    num_computed: int
    order: int
    pending: int = 0
    positions: Any = None
    rope_delta: int = 0
    adjusts_logits: bool = False
    adjustments: Any = None
    sampling: Any = None
    scores: Any = None

    def __hash__(self) -> int:
        return id(self)

    @property
    def remaining(self) -> int:
        return len(self.token_ids) + self.pending - self.num_computed

    def uniform(self, ahead: int = 0) -> float:
        return (self.num_computed * 0.618 + ahead) % 1.0


def weights_of(name: str, device: str, dtype: torch.dtype, quant: str = "none") -> FlatWeights:
    """Return random weights of a shape, small enough for every logit to be finite. quant: as in ModelSpec."""
    shape = DecoderShape(**SHAPES[name], eps=1e-6, dtype=dtype, device=torch.device(device))
    width, inner = (shape.heads + 2 * shape.kv_heads) * shape.head_dim, FEED_FORWARD[name]

    def normal(*size: int) -> torch.Tensor:
        return torch.empty(*size, device=device, dtype=dtype).normal_(0.0, 0.02)

    def matrix(*size: int) -> Weight | Fp8:
        if place.device.type == "meta" and quant != "none":
            if quant == "fp8":
                return Fp8.empty(size[0], size[1], place.device)
            return Quantized.empty(quant, size[0], size[1], place.device)
        return place.matrix(normal(*size))

    def vocabulary() -> Weight:
        if place.device.type == "meta" and quant != "none":
            return Quantized.empty("int8" if quant == "fp8" else quant, shape.vocabulary, shape.hidden, place.device)
        return place.vocabulary(normal(shape.vocabulary, shape.hidden))

    place = Placement(shape.device, dtype, quant)
    ones = torch.ones(shape.hidden, device=device, dtype=dtype)
    head_ones = torch.ones(shape.head_dim, device=device, dtype=dtype)
    layers = [
        LayerWeights(
            input_norm=ones,
            qkv=matrix(width, shape.hidden),
            qkv_bias=normal(width) if name == "7b" else None,
            q_norm=None if name == "7b" else head_ones,
            k_norm=None if name == "7b" else head_ones,
            out=matrix(shape.hidden, shape.heads * shape.head_dim),
            post_norm=ones,
            gate_up=matrix(2 * inner, shape.hidden),
            down=matrix(shape.hidden, inner),
        )
        for _ in range(shape.layers)
    ]
    half = shape.head_dim // 2
    frequencies = 1e6 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    axes = torch.zeros(half, dtype=torch.int32, device=device)
    return FlatWeights(
        shape, vocabulary(), layers, ones, vocabulary(), frequencies, axes, 1.0,
    )  # fmt: skip


def bytes_of(weights: FlatWeights) -> int:
    """Return the bytes of weights that one step reads."""
    tensors: list[Weight | Fp8] = [weights.norm, weights.head]
    for layer in weights.layers:
        tensors += [t for name in LayerWeights.__slots__ if (t := getattr(layer, name)) is not None]
    return sum(tensor.nbytes for tensor in tensors)


def copy_bandwidth(device: str) -> float:
    """Return the bandwidth of a copy in bytes read per second and written, together."""
    if device == "cpu":
        return 1e10
    source = torch.empty(2 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    torch.cuda.synchronize()
    return 20 * 2 * source.nbytes / (time.perf_counter() - began)


class Engine:
    """A step with as many sequences as it takes, all of them decoding."""

    def __init__(
        self,
        weights: FlatWeights,
        rows: int,
        context: int,
        chunk: int,
        steps: int,
        top_p: float = 1.0,
        tuning: Tuning | None = None,
        longest_step: int = LARGEST_GRAPH,
    ) -> None:
        shape = weights.shape
        longest = 2 * context + steps + chunk + BLOCK
        blocks = 1 + (rows + 1) * -(-longest // BLOCK)
        self.cache = KVCache(shape.layers, blocks, shape.kv_heads, shape.head_dim, shape.dtype, shape.device)
        longest_step = max(rows + chunk, longest_step)
        self.step = FlatStep(
            weights, self.cache, rows + 1, longest_step, longest, lambda progress: None, tuning=tuning
        )  # fmt: skip
        rng, self._next = random.Random(0), 1
        self._chunk, self._longest = chunk, longest
        self._sampling = SimpleNamespace(
            temperature=0.7, top_k=0, top_p=top_p, min_p=0.0, logprobs=None, token_mask=None
        )
        lengths = [rng.randrange(max(1, context // 2), context + context // 2 + 1) for _ in range(rows)]
        self.decoding = [self._row(slot, length) for slot, length in enumerate(lengths)]
        for row in self.decoding:
            row.num_computed = len(row.token_ids) - 1
        self.reader = self._row(rows, chunk)

    def _row(self, slot: int, length: int) -> Row:
        count = -(-self._longest // BLOCK)
        blocks = list(range(self._next, self._next + count))
        self._next += count
        return Row(
            slot, length, blocks, [1 + (slot * 7 + i) % 400 for i in range(length)], 0, 1, sampling=self._sampling
        )

    def launch(self) -> Launched:
        """Launch one step of all rows, and a prompt from its start if there is one."""
        self.reader.num_computed = 0
        decode: Any = list(self.decoding)
        prefill: Any = [(self.reader, self._chunk)] if self._chunk else []
        plan = Plan(decode, prefill)
        launched = self.step.launch(plan)
        for row in self.decoding:
            row.num_computed += 1
            row.pending = 1
        return launched

    def collect(self, launched: Launched) -> int:
        """Read the tokens of a step; return how many there are."""
        chosen = launched.collect()
        for sequence, _, choice in chosen:
            if sequence is not self.reader:  # type: ignore[comparison-overlap]
                sequence.token_ids.append(choice.token_id)
                sequence.pending = len(sequence.token_ids) <= sequence.num_computed and 1 or 0
        return len(chosen)


def measure(engine: Engine, steps: int) -> dict[str, float]:
    """Return the mean seconds of a step, of its launch on the host, and the tokens of one step."""
    ahead, tokens, host = engine.launch(), 0, 0.0
    for number in range(steps + WARM_UP):
        if number == WARM_UP:
            began, tokens, host = time.perf_counter(), 0, 0.0
        start = time.perf_counter()
        following = engine.launch()
        host += time.perf_counter() - start
        tokens += engine.collect(ahead)
        ahead = following
    seconds = time.perf_counter() - began
    engine.collect(ahead)
    return {"step_ms": seconds / steps * 1e3, "host_ms": host / steps * 1e3, "tokens_per_second": tokens / seconds}


def profile(engine: Engine, steps: int = 10) -> str:
    """Return the device's time by kernel over some steps."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            engine.collect(engine.launch())
        torch.cuda.synchronize()
    table: str = recorded.key_averages().table(sort_by="cuda_time_total", row_limit=24, max_name_column_width=60)
    return table


def tuning_of(variant: str) -> Tuning | None:
    """Return the tuning that a name means. Raises ValueError for an unknown one."""
    if variant == "default":
        return None
    wanted = {"skinny": False, "dependent": False, "last_merges": False}
    part_keys = Tuning().part_keys
    for name in [] if variant == "plain" else variant.split("+"):
        if found := re.fullmatch(r"part(\d+)", name):
            part_keys = int(found[1])
        elif name in ("skinny", "dependent", "last"):
            wanted["last_merges" if name == "last" else name] = True
        else:
            raise ValueError(f"no such variant: {name}")
    return Tuning(**wanted, part_keys=part_keys)


def compare(weights: FlatWeights, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step at each point, by variant. Captures no more graphs than a point needs."""
    table: dict[str, dict[str, float]] = {}
    for variant in options.variants:
        table[variant] = {}
        for rows in options.rows:
            for chunk in options.chunk:
                engine = Engine(
                    weights, rows, options.context, chunk, options.steps + 40, options.top_p, tuning_of(variant), 1
                )
                table[variant][f"{rows}+{chunk}"] = found = measure(engine, options.steps)["step_ms"]
                print(f"{variant}, {rows} rows, chunk {chunk}: {found:.3f} ms", flush=True)
                del engine
    width = max(map(len, table))
    print(f"{'step, ms':<{width}}", *(f"{point:>8}" for point in next(iter(table.values()))))
    for variant, points in table.items():
        print(f"{variant:<{width}}", *(f"{value:>8.3f}" for value in points.values()), flush=True)
    return table


def main(argv: list[str] | None = None) -> int:
    """Measure every point and print it; with --results, write all as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--rows", type=whole_numbers, default=[1, 8, 64, 128])
    parser.add_argument("--chunk", type=whole_numbers, default=[0, 256], help="tokens of a prompt beside the rows")
    parser.add_argument("--context", type=int, default=300)
    parser.add_argument("--top-p", type=float, default=1.0, help="of every row; below 1 they are ranked")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=[], help="compare these")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args(argv)
    weights = weights_of(options.shape, options.device, getattr(torch, options.dtype))
    bandwidth, size = copy_bandwidth(options.device), bytes_of(weights)
    print(f"{options.shape}: {size / 1e9:.2f} GB a step; copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    points: dict[str, Any] = {"bytes": size, "bandwidth": bandwidth}
    if options.variants:
        points["step_ms"] = compare(weights, options)
        if options.results:
            options.results.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
        return 0
    for rows in options.rows:
        for chunk in options.chunk:
            began = time.perf_counter()
            engine = Engine(weights, rows, options.context, chunk, options.steps + 40, options.top_p)
            started = time.perf_counter() - began
            point = measure(engine, options.steps)
            point["floor_share"] = size / bandwidth / point["step_ms"] * 1e3
            point["capture_s"] = started
            points[f"{rows} rows, chunk {chunk}"] = point
            print(
                f"{rows:>4} rows, chunk {chunk:>4}: " + json.dumps({k: round(v, 3) for k, v in point.items()}),
                flush=True,
            )
            if options.profile:
                print(profile(engine), flush=True)
            del engine
            if options.results:
                options.results.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
