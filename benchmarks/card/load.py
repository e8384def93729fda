"""The engine under load on the real shapes, with random lengths of prompts and answers."""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import gpu
from benchmarks.card.record import Options, Row, Rows
from benchmarks.harness.bandwidth import copy_bandwidth, floor_seconds
from benchmarks.harness.gpu_report import TEXT, EngineFigures
from benchmarks.harness.in_process import generation
from benchmarks.harness.shapes import Shape, shapes
from benchmarks.harness.workload import Job
from engine.types import GenerationRequest, TokensPrompt

PROMPTS, ANSWERS = (50, 300), (64, 256)
MEAN_CONTEXT = sum(PROMPTS) / 2 + sum(ANSWERS) / 4  # tokens of a row at half of its answer
FULL = gpu.Sizes(prompt=128, answer=128, context=768, settle=6.0, window=8.0)


def load(options: Options) -> Rows:
    """Yield the figures of the text model alone for each number of clients."""
    clients = [1, 2] if options.tiny else [1, 8, 64]
    bandwidth = copy_bandwidth(options.device)
    shape = shapes(options.tiny)[0]
    sizes = gpu.SMALL if options.tiny else FULL
    model = start(TEXT, shape, random_lengths(shape, options), options, clients)
    yield "start", {"model": shape.name, **model.facts}
    try:
        for c in clients:
            figures = gpu.steady([model.running], c, sizes)[TEXT]
            row_bytes = MEAN_CONTEXT * shape.kv_bytes_per_token
            most = c / floor_seconds(model.running.load.read_bytes, c * row_bytes, bandwidth)
            yield "load", figures_row(f"c={c}", figures, most)
    finally:
        model.running.engine.stop(0.0)


class Started:
    """A running model, and what its start cost."""

    def __init__(self, running: gpu.Model, seconds: float, device: str) -> None:
        self.running = running
        self.facts: Row = {"seconds": seconds}
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            self.facts |= {"GB allocated": torch.cuda.memory_allocated() / 1e9, "GB used": (total - free) / 1e9}


def start(
    kind: str, shape: Shape, requests: Iterator[GenerationRequest], options: Options, clients: list[int]
) -> Started:
    """Create a model of random weights and start its engine."""
    sizes = gpu.SMALL if options.tiny else FULL
    wanted = argparse.Namespace(device=options.device, c=clients, sizes=sizes, results=Path())
    began = time.perf_counter()
    running = gpu.start(kind, shape, requests, wanted)
    return Started(running, time.perf_counter() - began, options.device)


def random_lengths(shape: Shape, options: Options) -> Iterator[GenerationRequest]:
    """Yield requests of random tokens without end: prompts of 50 to 300 tokens, answers of 64 to 256."""
    rng = random.Random(0)
    prompts, answers = ((5, 30), (4, 12)) if options.tiny else (PROMPTS, ANSWERS)
    for number in itertools.count():
        ids = tuple(rng.randrange(shape.language["vocab_size"]) for _ in range(rng.randint(*prompts)))
        yield generation(TokensPrompt(ids), Job("", rng.randint(*answers), temperature=0.7), number)


def figures_row(name: str, figures: EngineFigures, most: float | None = None) -> Row:
    """Return one load's figures as a row; most: tokens per second that the memory allows."""
    return {
        "load": name,
        "tokens/s": figures["tokens_per_second"],
        "of the memory's limit": None if most is None else f"{figures['tokens_per_second'] / most:.0%}",
        "step, ms": figures["step_ms"],
        "first token p50, ms": figures["first_text_ms"]["p50"],
        "first token p95, ms": figures["first_text_ms"]["p95"],
        "per token p50, ms": figures["per_token_ms"]["p50"],
        "per token p95, ms": figures["per_token_ms"]["p95"],
        "requests": figures["requests"],
        "failed": figures["failures"],
    }
