"""Measure the engine alone, in process, on the CPU: the parts of each step, and images against plain `generate`.

    python -m benchmarks.offline [--text FOLDER] [--vision FOLDER] [--c 1,4,16,32,64] ...

Without folders the benchmark's models are created. The breakdown shows, for each shape of batch, how much of a step is
the model's forward pass and how much is the engine's work on the host. Images are answered by the engine with many
clients and by the library's `generate` one by one, in alternating rounds.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.checkpoints import checkpoint
from benchmarks.harness.command_line import keep_to_core, whole_numbers
from benchmarks.harness.comparison import Spread, spread
from benchmarks.harness.in_process import Clients, Server, request_of
from benchmarks.harness.one_by_one import OneByOne
from benchmarks.harness.plot import Panel
from benchmarks.harness.step_report import HOST_TARGET_MS, ByShape, by_shape, host_verdict, steps_table
from benchmarks.harness.stepping import Step, SteppedEngine
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.harness.workload import Workload
from engine.llm_engine import LLMEngine
from engine.loading.loader import load_model
from engine.text.images import check_header
from engine.types import EngineConfig, GenerationRequest, ModelSpec

MODEL_LENGTH = 1024
IMAGE_TARGET = 6.0
IMAGE_CLIENTS = 16


class StepFigures(TypedDict):
    """The steps of the text model, and its throughput by number of clients."""

    by_shape: ByShape
    tokens_per_second: dict[str, float]


class ImageFigures(TypedDict):
    """Tokens per second of each round by server, and the ratios of the rounds."""

    clients: int
    tokens_per_second: dict[str, list[float]]
    ratios: list[float]


def spec(folder: Path, vision: bool) -> ModelSpec:
    """Return the checkpoint as the service would load it on the CPU."""
    name = "avision" if vision else "avibe"
    setting = "--vision" if vision else "--text"
    return ModelSpec(name, name, vision, folder, folder, "cpu", "float32", setting, "", "DTYPE")


def requests(workload: Workload, count: int, *seed: object) -> Iterator[GenerationRequest]:
    """Yield seeded chat requests."""
    for number, job in enumerate(workload.jobs(count, *seed)):
        yield request_of(job, number, None if job.image is None else check_header(job.image))


def measure_steps(folder: Path, options: argparse.Namespace) -> StepFigures:
    """Run the text model with each number of clients; return its steps by shape and its throughput."""
    loaded = load_model(spec(folder, vision=False), lambda progress: None, MODEL_LENGTH)
    engine = SteppedEngine(loaded, EngineConfig(max_num_seqs=max(options.c), max_model_len=MODEL_LENGTH))
    workload = Workload(tokens=options.tokens)
    for _ in engine.closed_loop(requests(workload, 2, options.seed, "warm-up"), 2):
        pass
    steps, speeds = list[Step](), {}
    for clients in options.c:
        count = max(4, options.n * clients)
        began = time.perf_counter()
        own = engine.closed_loop(requests(workload, count, options.seed, clients), clients)
        steps += tqdm(own, desc=f"c={clients}", unit="step", disable=None)
        speeds[f"c={clients}"] = count * options.tokens / (time.perf_counter() - began)
    return {"by_shape": by_shape(steps), "tokens_per_second": speeds}


def measure_images(folder: Path, options: argparse.Namespace) -> ImageFigures:
    """Answer image requests by the engine and one by one, in alternating rounds."""
    own = spec(folder, vision=True)
    engine = LLMEngine(own, EngineConfig(max_num_seqs=IMAGE_CLIENTS, max_model_len=MODEL_LENGTH))
    servers: dict[str, tuple[Server, int]] = {
        "engine": (engine, IMAGE_CLIENTS),
        "one by one": (OneByOne(own, MODEL_LENGTH), 1),
    }
    speeds: dict[str, list[float]] = {name: [] for name in servers}
    engine.start()
    try:
        for number in range(options.rounds + 1):  # the first one warms up
            for name, (server, clients) in servers.items():
                speed = image_speed(server, clients, name, options, number)
                speeds[name] += [speed] if number else []
    finally:
        engine.stop(0.0)
    ratios = [fast / slow for fast, slow in zip(speeds["engine"], speeds["one by one"], strict=True)]
    return {"clients": IMAGE_CLIENTS, "tokens_per_second": speeds, "ratios": ratios}


def image_speed(server: Server, clients: int, name: str, options: argparse.Namespace, number: int) -> float:
    """Return the tokens per second of one round; both servers get the same images."""
    count = options.images if number else clients
    # The word "pictures" is part of the seed: with another one the requests would be others.
    todo = requests(Workload(tokens=options.tokens, images=True), count, options.seed, "pictures", number)
    with tqdm(total=count, desc=f"images, {name}", unit="request", disable=None) as bar:
        own = Clients(server, todo, clients, bar.update)
        began = time.perf_counter()
        own.start()
        own.join()
        seconds = time.perf_counter() - began
    outcomes = own.take_outcomes()
    if failed := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"A request with an image failed: {failed[0]}")
    return sum(outcome.tokens for outcome in outcomes) / seconds


def image_table(images: ImageFigures) -> str:
    """Return the table of the image rounds."""
    rows = [(name, str(spread(values))) for name, values in images["tokens_per_second"].items()]
    return record.table(("images", "tokens/s: median (lowest to highest round)"), rows)


def image_verdict(images: ImageFigures) -> Verdict:
    """Return the verdict on the ratio of the engine to one by one."""
    ratio = spread(images["ratios"]) or Spread(0.0, 0.0, 0.0)
    target = f"at least {IMAGE_TARGET:g} times one by one with {IMAGE_CLIENTS} clients"
    return judged(target, ratio.median >= IMAGE_TARGET, str(ratio))


def panels(shapes: ByShape, speeds: dict[str, float]) -> list[Panel]:
    """Return the plot: the parts of a decode step by rows, and throughput by clients."""
    decoding = [(shape, own) for shape, own in shapes.items() if "prompts" not in shape]
    rows = [int(shape.split()[-2]) for shape, _ in decoding]
    parts = {part: [[x, own[part]] for x, (_, own) in zip(rows, decoding, strict=True)] for part in ("host", "model")}
    speed = [[int(name[2:]), value] for name, value in speeds.items()]
    return [
        {"title": "One decode step", "x": "rows, at most", "y": "ms", "series": parts, "target": HOST_TARGET_MS},
        {"title": "The engine alone", "x": "clients", "y": "tokens/s", "series": {"text": speed}},
    ]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the benchmark's text model (benchmarks.make_model)")
    parser.add_argument("--vision", type=Path, help="its vision model")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64], help="clients")
    parser.add_argument("--n", type=int, default=3, help="requests per client (at least 4 in total)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--images", "--pictures", type=int, default=48, help="image requests per round; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of images")
    parser.add_argument("--core", type=int, help="pin this process to a core (Linux)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="offline", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the results; return the exit status, 1 if a target is missed."""
    options = arguments(argv)
    keep_to_core(options.core)
    if options.core is not None:
        torch.set_num_threads(1)
    found = record.facts(["torch", "transformers", "numpy"])
    with checkpoint("text", options.text) as folder:
        steps = measure_steps(folder, options)
    shapes, speeds = steps["by_shape"], steps["tokens_per_second"]
    tables = ["## Steps: medians in milliseconds; host is everything except the model", steps_table(shapes)]
    rows = [(name, f"{value:.1f}") for name, value in speeds.items()]
    verdicts = [host_verdict(shapes)]
    tables += [str(verdicts[0]), "## Text", record.table(("clients", "tokens/s"), rows)]
    written: dict[str, object] = {"steps": steps}
    gc.collect()
    if options.images:
        with checkpoint("vision", options.vision) as folder:
            images = measure_images(folder, options)
        written["images"] = images
        verdicts.append(image_verdict(images))
        tables += ["## Images", image_table(images), str(verdicts[1])]
    drawn = panels(shapes, speeds)
    path = record.write(options.name, found, written, "The engine alone", tables, options.results, drawn)
    print(path.read_text(encoding="utf-8"))
    return exit_status(verdict.word for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
