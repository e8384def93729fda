"""Measure the engine on a GPU with models of the real shapes and random weights, within ten minutes.

    python -m benchmarks.gpu [--c 1,4,16,32,64,128] [--minutes 9.5]

An 8B-shaped Qwen3 and a 7B-VL-shaped Qwen2.5-VL in float16 are created on the device; no file is read. Each is measured
alone and both together, with c clients each, against the limit set by memory bandwidth, which is measured in the same
run. Measurements that do not fit into --minutes are skipped and listed; the results file is written after each
measurement. Without CUDA the exit status is 2 (`--device cpu --tiny` tries the program itself).
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.bandwidth import copy_bandwidth
from benchmarks.harness.command_line import whole_numbers
from benchmarks.harness.figures import Objective, summary
from benchmarks.harness.gpu_report import (
    BOTH,
    TEXT,
    VISION,
    Demand,
    EngineFigures,
    Measured,
    limits,
    report,
    verdicts,
)
from benchmarks.harness.in_process import Clients, generation
from benchmarks.harness.shapes import LONGEST_SIDE, ModelShape, RandomLoad, shapes
from benchmarks.harness.targets import exit_status
from benchmarks.harness.workload import Job, draw_image, prompt
from engine.errors import StartError
from engine.llm_engine import LLMEngine
from engine.loading.device import BATCHED_TOKENS, DTYPES, STEP_OVERHEAD
from engine.text.images import check_header
from engine.types import ChatPrompt, EncodedImage, EngineConfig, GenerationRequest, ModelSpec, Prompt, TokensPrompt

NO_DEVICE = 2
OBJECTIVE = Objective(first=1.0, per_token=0.05)
IMAGE_TOKENS = (LONGEST_SIDE // 28) ** 2
ROW_TOKENS = 1024  # of the KV cache for each client; both models and all clients then fit on 80 GB
IMAGES = 16  # different ones; the text before them differs in every request


@dataclass(frozen=True, slots=True)
class Sizes:
    """The extent of one measurement, in tokens and seconds."""

    prompt: int
    answer: int
    context: int
    settle: float
    window: float


FULL = Sizes(prompt=128, answer=128, context=768, settle=3.0, window=6.0)
SMALL = Sizes(prompt=16, answer=8, context=768, settle=0.1, window=0.3)


@dataclass(frozen=True, slots=True)
class Model:
    """A running engine and its requests."""

    kind: str
    load: RandomLoad
    engine: LLMEngine
    requests: Iterator[GenerationRequest]

    def demand(self, sizes: Sizes) -> Demand:
        """Return what a decode step reads, with each row's cache at half of its answer."""
        prompt_tokens = sizes.prompt if self.load.shape.tower is None else IMAGE_TOKENS
        row_bytes = (prompt_tokens + sizes.answer / 2) * self.load.shape.kv_bytes_per_token
        return Demand(self.kind, self.load.read_bytes, row_bytes)


def text_requests(shape: ModelShape, sizes: Sizes) -> Iterator[GenerationRequest]:
    """Yield requests of random tokens without end."""
    rng = random.Random(TEXT)
    for number in itertools.count():
        ids = tuple(rng.randrange(shape.language["vocab_size"]) for _ in range(sizes.prompt))
        yield _request(TokensPrompt(ids), sizes, number)


def vision_requests(sizes: Sizes) -> Iterator[GenerationRequest]:
    """Yield requests with one image each without end; the text before it differs, so no prefix is shared."""
    rng = random.Random(VISION)
    images = [check_header(draw_image(rng, (LONGEST_SIDE, LONGEST_SIDE))) for _ in range(IMAGES)]
    for number in itertools.count():
        yield _request(_about(prompt(rng), images[number % IMAGES]), sizes, number)


def _about(words: str, image: EncodedImage) -> ChatPrompt:
    return ChatPrompt(({"role": "user", "content": [{"type": "text", "text": words}, {"type": "image"}]},), (image,))


def _request(prompt: Prompt, sizes: Sizes, number: int) -> GenerationRequest:
    return generation(prompt, Job("", sizes.answer, temperature=0.7), number)


def start(
    kind: str,
    shape: ModelShape,
    requests: Iterator[GenerationRequest],
    options: argparse.Namespace,
    load_shape: Callable[[ModelShape], RandomLoad] = RandomLoad,
) -> Model:
    """Create a model and start its engine. Raises StartError."""
    load = load_shape(shape)
    vision, here = shape.tower is not None, Path()
    spec = ModelSpec(kind, shape.name, vision, here, here, options.device, DTYPES[options.device], "-", "-", "DTYPE")
    config = EngineConfig(
        max_num_seqs=max(options.c),
        max_model_len=options.sizes.context,
        max_num_batched_tokens=max(BATCHED_TOKENS[options.device], max(options.c)),
        step_overhead=STEP_OVERHEAD[options.device],
        kv_cache_tokens=max(options.c) * ROW_TOKENS + options.sizes.context,
    )
    engine = LLMEngine(spec, config, load)
    engine.start()
    return Model(kind, load, engine, requests)


def steady(models: Sequence[Model], clients: int, sizes: Sizes) -> dict[str, EngineFigures]:
    """Load every model with `clients` at once; return each model's figures over a window in the steady state.

    Tokens per second come from the engine's own counters over the window, so requests that it cuts do not matter.
    """
    groups = [Clients(model.engine, model.requests, clients) for model in models]
    for group in groups:
        group.start()
    time.sleep(sizes.settle)
    for group in groups:
        group.take_outcomes()
    began, before = time.perf_counter(), [model.engine.stats() for model in models]
    time.sleep(sizes.window)
    seconds, after = time.perf_counter() - began, [model.engine.stats() for model in models]
    outcomes = [group.take_outcomes() for group in groups]
    for group in groups:
        group.stop()
    figures: dict[str, EngineFigures] = {}
    for model, first, last, ended in zip(models, before, after, outcomes, strict=True):
        made = last.generation_tokens_total - first.generation_tokens_total
        steps = last.steps_total - first.steps_total
        own = EngineFigures(**summary(ended, seconds, OBJECTIVE), step_ms=seconds / steps * 1e3 if steps else None)
        figures[model.kind] = {**own, "tokens_per_second": made / seconds}
    return figures


def points(models: Sequence[Model], clients: Sequence[int]) -> list[tuple[str, list[Model], int]]:
    """Return the measurements in order: each model alone, then both together."""
    loads = [(model.kind, [model]) for model in models] + [(BOTH, list(models))]
    return [(name, own, c) for name, own in loads for c in clients]


def measure(models: Sequence[Model], options: argparse.Namespace, end: float) -> Iterator[Measured]:
    """Measure until `end`; after each measurement yield all results so far and the names of those skipped."""
    done = Measured()
    with tqdm(points(models, options.c), unit="point", disable=None) as bar:
        for name, own, clients in bar:
            point = f"{name}, c={clients}"
            bar.set_description(point)
            if time.monotonic() + options.sizes.settle + options.sizes.window > end:
                done.skipped.append(point)
            else:
                done.figures[point] = steady(own, clients, options.sizes)
            yield done


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and short windows, to try the program")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64, 128], help="clients of each model")
    parser.add_argument("--minutes", type=float, default=9.5, help="from the start of the program")
    parser.add_argument("--name", default="gpu", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    options = parser.parse_args(argv)
    options.sizes = SMALL if options.tiny else FULL
    return options


def main(argv: Sequence[str] | None = None, cuda_available: Callable[[], bool] = torch.cuda.is_available) -> int:
    """Measure, print and write the results.

    Returns 2 without CUDA, 1 if a model cannot start or a target is missed.
    """
    options = arguments(argv)
    end = time.monotonic() + options.minutes * 60
    if options.device == "cuda" and not cuda_available():
        print("No CUDA device is available; try the program with --device cpu --tiny.", file=sys.stderr)
        return NO_DEVICE
    found = record.facts(["torch", "transformers"])
    card = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    bandwidth = copy_bandwidth(options.device)
    text, vision = shapes(options.tiny)
    models: list[Model] = []
    try:
        models.append(start(TEXT, text, text_requests(text, options.sizes), options))
        models.append(start(VISION, vision, vision_requests(options.sizes), options))
        most = limits([model.demand(options.sizes) for model in models], options.c, bandwidth)
        for done in measure(models, options, end):
            path = report(found, done, most, bandwidth, options, card)
    except StartError as error:
        print(f"A model cannot start: {error}", file=sys.stderr)
        return 1
    finally:
        for model in models:
            model.engine.stop(0.0)
    print(path.read_text(encoding="utf-8"))
    return exit_status(own.word for own in verdicts(done.figures, most, options.c, card))


if __name__ == "__main__":
    sys.exit(main())
