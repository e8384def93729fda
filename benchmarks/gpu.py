"""Measure the engine on a GPU with models of the real shapes and random weights, unattended, within ten minutes.

    python -m benchmarks.gpu [--c 1,4,16,32,64,128] [--minutes 9.5]

An 8B-shaped Qwen3 and a 7B-VL-shaped Qwen2.5-VL in float16 are made on the device itself; no file is read. Each is
measured alone and both together, c clients each, against the floor that the device's memory sets, which is measured
in the same run. What does not fit into the minutes is left out and said so; the results file is written after every
point. Without CUDA it ends with status 2 (`--device cpu --tiny` tries the program itself).
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
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.bandwidth import copy_bandwidth
from benchmarks.harness.command_line import whole_numbers
from benchmarks.harness.figures import Objective, summary
from benchmarks.harness.gpu_report import BOTH, TEXT, VISION, Demand, floors, report
from benchmarks.harness.in_process import Clients, generation
from benchmarks.harness.shapes import LONGEST_SIDE, RandomLoad, Shape, shapes
from benchmarks.harness.workload import Job, picture, prompt
from engine.errors import StartError
from engine.llm_engine import LLMEngine
from engine.text.images import check_header
from engine.types import ChatPrompt, EncodedImage, EngineConfig, GenerationRequest, ModelSpec, Prompt, TokensPrompt
from models.selection import BATCHED_TOKENS, DTYPES

NO_DEVICE = 2
OBJECTIVE = Objective(first=1.0, per_token=0.05)
PICTURE_TOKENS = (LONGEST_SIDE // 28) ** 2
PICTURES = 16  # different ones; the words before them differ in every request


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done at each point, in tokens and seconds."""

    prompt: int
    answer: int
    context: int
    settle: float
    window: float


FULL = Sizes(prompt=128, answer=128, context=768, settle=3.0, window=6.0)
SMALL = Sizes(prompt=16, answer=8, context=768, settle=0.1, window=0.3)


@dataclass(frozen=True, slots=True)
class Model:
    """One engine at work, and the requests it gets."""

    kind: str
    load: RandomLoad
    engine: LLMEngine
    requests: Iterator[GenerationRequest]

    def demand(self, sizes: Sizes) -> Demand:
        """Return what a decode step reads; a row's cache is taken at half of its answer."""
        prompt_tokens = sizes.prompt if self.load.shape.tower is None else PICTURE_TOKENS
        row_bytes = (prompt_tokens + sizes.answer / 2) * self.load.shape.kv_bytes_per_token
        return Demand(self.kind, self.load.read_bytes, row_bytes)


# --- what is asked ---


def text_requests(shape: Shape, sizes: Sizes) -> Iterator[GenerationRequest]:
    """Yield requests of random tokens without end, none like another."""
    rng = random.Random(TEXT)
    for number in itertools.count():
        ids = tuple(rng.randrange(shape.language["vocab_size"]) for _ in range(sizes.prompt))
        yield _request(TokensPrompt(ids), sizes, number)


def vision_requests(sizes: Sizes) -> Iterator[GenerationRequest]:
    """Yield requests with one picture each without end; the words before it differ, so nothing is reused."""
    rng = random.Random(VISION)
    pictures = [check_header(picture(rng, (LONGEST_SIDE, LONGEST_SIDE))) for _ in range(PICTURES)]
    for number in itertools.count():
        yield _request(_about(prompt(rng), pictures[number % PICTURES]), sizes, number)


def _about(words: str, image: EncodedImage) -> ChatPrompt:
    return ChatPrompt(({"role": "user", "content": [{"type": "text", "text": words}, {"type": "image"}]},), (image,))


def _request(asked: Prompt, sizes: Sizes, number: int) -> GenerationRequest:
    return generation(asked, Job("", sizes.answer, temperature=0.7), number)


# --- measuring ---


def start(kind: str, shape: Shape, requests: Iterator[GenerationRequest], asked: argparse.Namespace) -> Model:
    """Make a model and warm it up. Raises StartError."""
    load = RandomLoad(shape)
    settings = {"dir_setting": "-", "tokenizer_setting": "-", "dtype_setting": "DTYPE"}
    vision, here = shape.tower is not None, Path()
    spec = ModelSpec(kind, shape.name, vision, here, here, asked.device, DTYPES[asked.device], **settings)
    config = EngineConfig(
        max_num_seqs=max(asked.c),
        max_model_len=asked.sizes.context,
        max_num_batched_tokens=max(BATCHED_TOKENS[asked.device], max(asked.c)),
    )
    engine = LLMEngine(spec, config, load)
    engine.start()
    return Model(kind, load, engine, requests)


def steady(models: Sequence[Model], clients: int, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Let `clients` ask each model at once; return each model's figures over a window after it has settled.

    Tokens a second are counted by the engine itself over the window, so neither start nor end of requests matters.
    """
    asking = [Clients(model.engine, model.requests, clients) for model in models]
    for own in asking:
        own.start()
    time.sleep(sizes.settle)
    for own in asking:
        own.take_outcomes()
    began, before = time.perf_counter(), [model.engine.stats() for model in models]
    time.sleep(sizes.window)
    seconds, after = time.perf_counter() - began, [model.engine.stats() for model in models]
    outcomes = [own.take_outcomes() for own in asking]
    for own in asking:
        own.stop()
    figures = {}
    for model, first, last, ended in zip(models, before, after, outcomes, strict=True):
        made = last.generation_tokens_total - first.generation_tokens_total
        steps = last.steps_total - first.steps_total
        figures[model.kind] = summary(ended, seconds, OBJECTIVE) | {
            "tokens_per_second": made / seconds,
            "step_ms": seconds / steps * 1e3 if steps else None,
        }
    return figures


def points(models: Sequence[Model], clients: Sequence[int]) -> list[tuple[str, list[Model], int]]:
    """Return what is to be measured, in order: each model alone, then both together."""
    loads = [(model.kind, [model]) for model in models] + [(BOTH, list(models))]
    return [(name, own, c) for name, own in loads for c in clients]


def measure(models: Sequence[Model], asked: argparse.Namespace, end: float) -> Iterator[dict[str, Any]]:
    """Measure point after point until `end`; yield all that is known after each, and the names of what is left out."""
    done: dict[str, Any] = {"figures": {}, "left_out": []}
    with tqdm(points(models, asked.c), unit="point", disable=None) as bar:
        for name, own, clients in bar:
            point = f"{name}, c={clients}"
            bar.set_description(point)
            if time.monotonic() + asked.sizes.settle + asked.sizes.window > end:
                done["left_out"].append(point)
            else:
                done["figures"][point] = steady(own, clients, asked.sizes)
            yield done


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and short windows, to try the program")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64, 128], help="clients of each model")
    parser.add_argument("--minutes", type=float, default=9.5, help="from the start of the program")
    parser.add_argument("--name", default="gpu", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    asked = parser.parse_args(argv)
    asked.sizes = SMALL if asked.tiny else FULL
    return asked


def main(argv: Sequence[str] | None = None, cuda_available: Callable[[], bool] = torch.cuda.is_available) -> int:
    """Measure, print and write the results; return the exit status: 2 without CUDA, 1 where a model cannot start."""
    asked = arguments(argv)
    end = time.monotonic() + asked.minutes * 60
    if asked.device == "cuda" and not cuda_available():
        print("No CUDA device is available; try the program with --device cpu --tiny.", file=sys.stderr)
        return NO_DEVICE
    found = record.facts(["torch", "transformers"])
    bandwidth = copy_bandwidth(asked.device)
    text, vision = shapes(asked.tiny)
    models: list[Model] = []
    try:
        models.append(start(TEXT, text, text_requests(text, asked.sizes), asked))
        models.append(start(VISION, vision, vision_requests(asked.sizes), asked))
        most = floors([model.demand(asked.sizes) for model in models], asked.c, bandwidth)
        for done in measure(models, asked, end):
            path = report(found, done | {"bandwidth": bandwidth, "floors": most}, asked)
    except StartError as error:
        print(f"A model cannot start: {error}", file=sys.stderr)
        return 1
    finally:
        for model in models:
            model.engine.stop(0.0)
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
