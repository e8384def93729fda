"""Measure the engine alone, in process, on the CPU: each step taken apart, and pictures against plain `generate`.

    python -m benchmarks.offline [--text FOLDER] [--vision FOLDER] [--c 1,4,16,32,64] ...

Without folders the benchmark's models are made anew. The breakdown shows for each shape of batch what of a step is
the model's forward pass and what is the engine's own work on the host. Pictures go through the engine with many
clients and through the library's `generate` one by one, in alternation.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.checkpoints import checkpoint
from benchmarks.harness.command_line import keep_to_core, whole_numbers
from benchmarks.harness.comparison import Spread, spread
from benchmarks.harness.in_process import Asked, Clients, request_of
from benchmarks.harness.one_by_one import OneByOne
from benchmarks.harness.stepping import PARTS, Step, SteppedEngine
from benchmarks.harness.workload import Workload
from engine.llm_engine import LLMEngine
from engine.loading.loader import load_model
from engine.text.images import check_header
from engine.types import EngineConfig, GenerationRequest, ModelSpec

MODEL_LENGTH = 1024
HOST_TARGET_MS = 1.0
HOST_TARGET_ROWS = 32
PICTURE_TARGET = 6.0
PICTURE_CLIENTS = 16
BUCKETS = (1, 4, 8, 16, 32, 64, 128)


def spec(folder: Path, vision: bool) -> ModelSpec:
    """Return the checkpoint as the service would load it on the CPU."""
    name = "avision" if vision else "avibe"
    settings = {"dir_setting": "--vision" if vision else "--text", "tokenizer_setting": "", "dtype_setting": "DTYPE"}
    return ModelSpec(name, name, vision, folder, folder, "cpu", "float32", **settings)


def requests(workload: Workload, count: int, *seed: object) -> Iterator[GenerationRequest]:
    """Yield seeded chat requests."""
    for number, job in enumerate(workload.jobs(count, *seed)):
        yield request_of(job, number, None if job.picture is None else check_header(job.picture))


# --- steps ---


def measure_steps(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run the text model with each number of clients; return its steps by shape and its speed."""
    loaded = load_model(spec(folder, vision=False), lambda progress: None, MODEL_LENGTH)
    engine = SteppedEngine(loaded, EngineConfig(max_num_seqs=max(asked.c), max_model_len=MODEL_LENGTH))
    workload = Workload(tokens=asked.tokens)
    for _ in engine.closed_loop(requests(workload, 2, asked.seed, "warm-up"), 2):
        pass
    steps, speeds = list[Step](), {}
    for clients in asked.c:
        count = max(4, asked.n * clients)
        began = time.perf_counter()
        own = engine.closed_loop(requests(workload, count, asked.seed, clients), clients)
        steps += tqdm(own, desc=f"c={clients}", unit="step", disable=None)
        speeds[f"c={clients}"] = count * asked.tokens / (time.perf_counter() - began)
    return {"by_shape": by_shape(steps), "tokens_per_second": speeds}


def shape_of(step: Step) -> str:
    """Return the name of the group a step belongs to: its decoding rows, and whether prompts are read in it."""
    upper = next((bucket for bucket in BUCKETS if step.rows <= bucket), BUCKETS[-1])
    lower = next((bucket + 1 for bucket in reversed(BUCKETS) if bucket < upper), 1)
    rows = "no rows" if step.rows == 0 else f"{upper} rows" if lower == upper else f"{lower} to {upper} rows"
    return f"{rows} and prompts" if step.prompt_tokens else rows


def by_shape(steps: Sequence[Step]) -> dict[str, dict[str, float]]:
    """Return the medians of each part, in milliseconds, by shape."""
    groups: dict[str, list[Step]] = {}
    for step in sorted(steps, key=lambda step: (step.prompt_tokens > 0, step.rows)):
        groups.setdefault(shape_of(step), []).append(step)
    return {shape: _medians(group) for shape, group in groups.items()}


def _medians(steps: Sequence[Step]) -> dict[str, float]:
    parts = (*PARTS, "host", "total")
    medians = {part: statistics.median(getattr(step, part) for step in steps) * 1e3 for part in parts}
    return {"steps": len(steps), **medians, "host_mean": statistics.fmean(step.host for step in steps) * 1e3}


def steps_table(shapes: dict[str, dict[str, float]]) -> str:
    """Return the breakdown as a table."""
    parts = (*PARTS, "total", "host", "host_mean")
    rows = [(shape, str(own["steps"]), *(f"{own[part]:.3f}" for part in parts)) for shape, own in shapes.items()]
    return record.table(("batch", "steps", *PARTS, "total", "host", "host (mean)"), rows)


def host_verdict(shapes: dict[str, dict[str, float]]) -> str:
    """Return the sentence about the engine's own work with 17 to 32 rows that decode."""
    shape = shape_of(Step(HOST_TARGET_ROWS, 0, 0, 0, 0, 0, 0, 0))
    if shape not in shapes:
        return f"The engine's own work at {HOST_TARGET_ROWS} rows was not measured."
    host = shapes[shape]["host"]
    word = "met" if host < HOST_TARGET_MS else "missed"
    return f"Target: the engine's own work under {HOST_TARGET_MS:g} ms a step at {shape}: {word} ({host:.3f} ms)."


# --- pictures ---


def measure_pictures(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Answer picture requests through the engine and one by one, in alternating rounds; return tokens a second."""
    own = spec(folder, vision=True)
    config = EngineConfig(max_num_seqs=PICTURE_CLIENTS, max_model_len=MODEL_LENGTH)
    engine = LLMEngine(own, config)
    asked_of: dict[str, tuple[Asked, int]] = {
        "engine": (engine, PICTURE_CLIENTS),
        "one by one": (OneByOne(own, MODEL_LENGTH), 1),
    }
    speeds: dict[str, list[float]] = {name: [] for name in asked_of}
    engine.start()
    try:
        for number in range(asked.rounds + 1):  # the first warms up
            for name, (model, clients) in asked_of.items():
                speed = picture_speed(model, clients, name, asked, number)
                speeds[name] += [speed] if number else []
    finally:
        engine.stop(0.0)
    ratios = [fast / slow for fast, slow in zip(speeds["engine"], speeds["one by one"], strict=True)]
    return {"clients": PICTURE_CLIENTS, "tokens_per_second": speeds, "ratios": ratios}


def picture_speed(model: Asked, clients: int, name: str, asked: argparse.Namespace, number: int) -> float:
    """Return the tokens a second of one round; the same pictures for both."""
    count = asked.pictures if number else clients
    todo = requests(Workload(tokens=asked.tokens, pictures=True), count, asked.seed, "pictures", number)
    with tqdm(total=count, desc=f"pictures, {name}", unit="request", disable=None) as bar:
        own = Clients(model, todo, clients, bar.update)
        began = time.perf_counter()
        own.start()
        own.join()
        seconds = time.perf_counter() - began
    outcomes = own.take_outcomes()
    if failed := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"A request with a picture failed: {failed[0]}")
    return sum(outcome.tokens for outcome in outcomes) / seconds


def picture_lines(pictures: dict[str, Any]) -> list[str]:
    """Return the table of the pictures and the sentence about the target."""
    speeds = pictures["tokens_per_second"]
    rows = [(name, str(spread(values))) for name, values in speeds.items()]
    ratio = spread(pictures["ratios"]) or Spread(0.0, 0.0, 0.0)
    word = "met" if ratio.median >= PICTURE_TARGET else "missed"
    sentence = f"Target: at least {PICTURE_TARGET:g} times one by one with {PICTURE_CLIENTS} clients: {word} ({ratio})."
    return [record.table(("pictures", "tokens/s: median (lowest to highest round)"), rows), sentence]


# --- the program ---


def panels(shapes: dict[str, dict[str, float]], speeds: dict[str, float]) -> list[dict[str, Any]]:
    """Return what to draw."""
    decoding = [(shape, own) for shape, own in shapes.items() if "prompts" not in shape]
    rows = [int(shape.split()[-2]) for shape, _ in decoding]
    parts = {part: [[x, own[part]] for x, (_, own) in zip(rows, decoding, strict=True)] for part in ("host", "model")}
    speed = [[int(name[2:]), value] for name, value in speeds.items()]
    return [
        {"title": "One decode step", "x": "rows, at most", "y": "ms", "series": parts, "target": HOST_TARGET_MS},
        {"title": "The engine alone", "x": "clients", "y": "tokens/s", "series": {"text": speed}},
    ]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the benchmark's text model (benchmarks.make_model)")
    parser.add_argument("--vision", type=Path, help="its vision model")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64], help="clients")
    parser.add_argument("--n", type=int, default=3, help="requests of each client (at least 4 in all)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--pictures", type=int, default=48, help="requests with a picture in a round; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of pictures")
    parser.add_argument("--core", type=int, help="keep to one core (Linux)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="offline", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the results; return the exit status."""
    asked = arguments(argv)
    keep_to_core(asked.core)
    if asked.core is not None:
        torch.set_num_threads(1)
    found = record.facts(["torch", "transformers", "numpy"])
    with checkpoint("text", asked.text) as folder:
        steps = measure_steps(folder, asked)
    shapes, speeds = steps["by_shape"], steps["tokens_per_second"]
    tables = [
        "## Steps: medians in milliseconds; host is everything but the model",
        steps_table(shapes),
        host_verdict(shapes),
    ]
    rows = [(name, f"{value:.1f}") for name, value in speeds.items()]
    tables += ["## Text", record.table(("clients", "tokens/s"), rows)]
    written = {"facts": found, "steps": steps, "plot": panels(shapes, speeds)}
    gc.collect()
    if asked.pictures:
        with checkpoint("vision", asked.vision) as folder:
            written["pictures"] = measure_pictures(folder, asked)
        tables += ["## Pictures", *picture_lines(written["pictures"])]
    path = record.write(asked.name, written, "The engine alone", tables, asked.results)
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
