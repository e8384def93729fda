"""Where a step's time goes on the card: its operations, the time between them, and what the engine's thread does.

The profiler watches a running engine from outside, so that nothing of it is changed: what is counted is what serves.
Only what the device did from the end of one step to that of a later one counts. Kernels that are launched before those
ahead of them have ended overlap: the times of the operations then add up to more than the time that the device is busy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
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
from benchmarks.harness.shapes import ModelShape, shapes
from engine.types import GenerationRequest

STEPS = 40
LONGEST = 5.0  # seconds that these may take
TOP = 14
SHORT_GAP = 20_000  # ns: below, the device only went on to the next operation


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that the device did, in nanoseconds."""

    name: str
    start: int
    duration: int


@dataclass(frozen=True, slots=True)
class Window:
    """What the device did while an engine ended `steps` steps: the parts of operations between two times."""

    operations: list[Operation]
    steps: int
    began: int
    ended: int

    @classmethod
    def of(cls, operations: Iterable[Operation], steps: int, began: int, ended: int) -> Window:
        """Return a window of operations, cut where it begins and ends."""
        cut = (
            Operation(one.name, start, end - start)
            for one in operations
            if (start := max(one.start, began)) < (end := min(one.start + one.duration, ended))
        )
        return cls(sorted(cut, key=lambda one: one.start), steps, began, ended)

    def summary(self) -> Row:
        """Return the figures of a step; busy, short gaps and waiting are all of its time."""
        busy, between, waits, end = 0, 0, 0, self.began
        for operation in [*self.operations, Operation("", self.ended, 0)]:
            gap = max(0, operation.start - end)
            between += gap if gap < SHORT_GAP else 0
            waits += gap if gap >= SHORT_GAP else 0
            busy += max(0, operation.start + operation.duration - max(operation.start, end))
            end = max(end, operation.start + operation.duration)
        steps, every = max(1, self.steps), sum(operation.duration for operation in self.operations)
        copies = sum(operation.name.startswith(("Memcpy", "Memset")) for operation in self.operations)
        return {
            "steps": self.steps,
            "ms a step": (self.ended - self.began) / steps / 1e6,
            "operations a step": len(self.operations) / steps,
            "copies a step": copies / steps,
            "busy, ms a step": busy / steps / 1e6,
            "of it two operations at once, ms a step": (every - busy) / steps / 1e6,
            "short gaps, ms a step": between / steps / 1e6,
            "waiting for the host, ms a step": waits / steps / 1e6,
        }


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


def _long_answers(shape: ModelShape, options: Options) -> Iterator[GenerationRequest]:
    """Yield requests that decode for the whole measurement; their prompts have one length."""
    number = 0
    while True:
        yield one_request(shape, options.pick(150, 8), options.pick(2500, 200), number)
        number += 1


def _one_load(model: Started, options: Options) -> Rows:
    window = _watch(model, options)
    yield "steps", window.summary()
    if window.steps and options.device == "cuda" and not window.operations:
        yield problem("no operation in the window: the profiler's clock is not the host's")
    busiest = Counter[str]()
    calls = Counter[str]()
    for operation in window.operations:
        busiest[operation.name] += operation.duration
        calls[operation.name] += 1
    for name, duration in busiest.most_common(TOP):
        yield (
            "operations",
            {
                "name": name[:90],
                "a step": calls[name] / max(1, window.steps),
                "us a step": duration / 1e3 / max(1, window.steps),
                "us each": duration / 1e3 / calls[name],
            },
        )
    for row in _host_rows(model.sizes.window / 3):
        yield "the engine's thread", row


def _watch(model: Started, options: Options) -> Window:
    """Return what the device does from the end of one step to that of the last of STEPS."""
    activities = [ProfilerActivity.CUDA if options.device == "cuda" else ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=activities)
    profiler.start()
    before, began = _step_after(model, 1)
    after, ended = _step_after(model, STEPS)
    profiler.stop()
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    found = [
        Operation(event.name(), event.start_ns(), event.duration_ns())
        for event in results.events()
        if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0
    ]
    return Window.of(found, after - before, began, ended)


def _step_after(model: Started, steps: int) -> tuple[int, int]:
    """Wait for so many steps, 5 seconds at most; return how many there were ever, and when on the profiler's clock."""
    before, began = model.engine.stats().steps_total, time.monotonic()
    while (total := model.engine.stats().steps_total) < before + steps and time.monotonic() - began < LONGEST:
        time.sleep(0.001)
    return total, time.time_ns()


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
