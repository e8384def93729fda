"""Where a step's time goes on the card: its operations, the time between them, and what the engine's thread does.

The profiler watches a running engine from outside, so that nothing of it is changed: what is counted is what serves.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity

from benchmarks.card.engines import Started, broken, one_request, random_lengths
from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.harness.gpu_report import TEXT
from benchmarks.harness.in_process import Clients
from benchmarks.harness.record import ROOT
from benchmarks.harness.shapes import Shape, shapes
from engine.types import GenerationRequest

STEPS = 40
TOP = 14
SHORT_GAP = 20_000  # ns: below, the device only went on to the next operation


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that the device did, in nanoseconds."""

    name: str
    start: int
    duration: int


def profile(options: Options) -> Rows:
    """Yield operations and host functions of decode steps alone (1 and 64 rows), then of steps with prompts."""
    shape = shapes(options.tiny)[0]
    rows = options.pick(64, 2)
    loads = {
        "1 row": (1, _long_answers(shape, options)),
        f"{rows} rows": (rows, _long_answers(shape, options)),
        f"{rows} rows and prompts": (rows, random_lengths(shape, options)),
    }
    with Started(TEXT, shape, random_lengths(shape, options), options, rows) as model:
        yield "start", model.facts
        for name, (clients, requests) in loads.items():
            group = Clients(model.engine, requests, clients)
            group.start()
            time.sleep(model.sizes.settle / 2)
            for table, row in _one_load(model, options):
                yield f"{name}: {table}", row
                if row.get("steps") == 0:
                    yield problem(f"{name}: no step in the window")
            failed = {outcome.error for outcome in group.take_outcomes()} - {None}
            group.abandon()
            _wait_until_idle(model)
            if failed:
                yield problem(f"{name}: {', '.join(map(str, failed))}")
        yield from broken(model)


def _long_answers(shape: Shape, options: Options) -> Iterator[GenerationRequest]:
    """Yield requests that decode for the whole measurement; their prompts have one length."""
    number = 0
    while True:
        yield one_request(shape, options.pick(150, 8), options.pick(2500, 200), number)
        number += 1


def _one_load(model: Started, options: Options) -> Rows:
    operations, steps, seconds = _watch(model, options)
    yield "steps", _summary(operations, steps, seconds)
    busiest = Counter[str]()
    calls = Counter[str]()
    for operation in operations:
        busiest[operation.name] += operation.duration
        calls[operation.name] += 1
    for name, duration in busiest.most_common(TOP):
        yield (
            "operations",
            {
                "name": name[:90],
                "a step": calls[name] / max(1, steps),
                "us a step": duration / 1e3 / max(1, steps),
                "us each": duration / 1e3 / calls[name],
            },
        )
    for row in _host_rows(model.sizes.window / 3):
        yield "the engine's thread", row


def _watch(model: Started, options: Options) -> tuple[list[Operation], int, float]:
    """Return the device's operations, the steps and the seconds of a window."""
    activities = [ProfilerActivity.CUDA if options.device == "cuda" else ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=activities)
    profiler.start()
    before, began = model.engine.stats().steps_total, time.perf_counter()
    while model.engine.stats().steps_total < before + STEPS and time.perf_counter() - began < 5.0:
        time.sleep(0.002)
    steps, seconds = model.engine.stats().steps_total - before, time.perf_counter() - began
    profiler.stop()
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    found = [
        Operation(event.name(), event.start_ns(), event.duration_ns())
        for event in results.events()
        if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0
    ]
    return sorted(found, key=lambda operation: operation.start), steps, seconds


def _summary(operations: list[Operation], steps: int, seconds: float) -> Row:
    busy, between, waits, end = 0, 0, 0, 0
    for operation in operations:
        if end and operation.start > end:
            gap = operation.start - end
            between += gap if gap < SHORT_GAP else 0
            waits += gap if gap >= SHORT_GAP else 0
        busy += max(0, operation.start + operation.duration - max(operation.start, end))
        end = max(end, operation.start + operation.duration)
    divisor = max(1, steps) * 1e6
    copies = sum(operation.name.startswith(("Memcpy", "Memset")) for operation in operations)
    return {
        "steps": steps,
        "ms a step": seconds * 1e3 / max(1, steps),
        "operations a step": len(operations) / max(1, steps),
        "copies a step": copies / max(1, steps),
        "busy, ms a step": busy / divisor,
        "short gaps, ms a step": between / divisor,
        "waiting for the host, ms a step": waits / divisor,
    }


def _host_rows(seconds: float) -> Iterator[Row]:
    """Yield the functions of ours that the engine's thread was in, sampled, with their share of the samples."""
    thread = next(thread for thread in threading.enumerate() if thread.name.startswith("engine-"))
    inside, last = Counter[str](), Counter[str]()
    samples, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        frame = sys._current_frames().get(thread.ident or 0)
        names = list(dict.fromkeys(_ours(frame)))
        inside.update(names)
        last.update(names[:1])
        samples += 1
        time.sleep(0.001)
    for name, count in inside.most_common(2 * TOP):
        share, own = count / samples, last[name] / samples
        yield {"function": name, "share": f"{share:.0%}", "of it innermost of ours": f"{own:.0%}"}


def _ours(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(str(ROOT / "engine")):
            yield f"{frame.f_code.co_filename[len(str(ROOT)) + 1 :]}:{frame.f_code.co_qualname}"
        frame = frame.f_back


def _wait_until_idle(model: Started) -> None:
    while model.engine.stats().num_requests_running:
        time.sleep(0.01)
