"""Groups the engine's steps by the shape of their batch and reports the medians of each part."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.harness import record
from benchmarks.harness.stepping import PARTS, Step
from benchmarks.harness.targets import Verdict, Word, judged

HOST_TARGET_MS = 1.0
HOST_TARGET_ROWS = 32
BUCKETS = (1, 4, 8, 16, 32, 64, 128)

# The number of steps of each shape and the medians of their parts in milliseconds.
ByShape = Mapping[str, Mapping[str, float]]


def shape_of(step: Step) -> str:
    """Return the name of a step's group: its decoding rows, and whether it also reads prompts."""
    upper = next((bucket for bucket in BUCKETS if step.rows <= bucket), BUCKETS[-1])
    lower = next((bucket + 1 for bucket in reversed(BUCKETS) if bucket < upper), 1)
    rows = "no rows" if step.rows == 0 else f"{upper} rows" if lower == upper else f"{lower} to {upper} rows"
    return f"{rows} and prompts" if step.prompt_tokens else rows


def by_shape(steps: Sequence[Step]) -> ByShape:
    """Return the medians of each group, small batches first and those with prompts last."""
    groups: dict[str, list[Step]] = {}
    for step in sorted(steps, key=lambda step: (step.prompt_tokens > 0, step.rows)):
        groups.setdefault(shape_of(step), []).append(step)
    return {shape: _medians(group) for shape, group in groups.items()}


def _medians(steps: Sequence[Step]) -> dict[str, float]:
    parts = (*PARTS, "host", "total")
    medians = {part: statistics.median(getattr(step, part) for step in steps) * 1e3 for part in parts}
    return {"steps": len(steps), **medians, "host_mean": statistics.fmean(step.host for step in steps) * 1e3}


def steps_table(shapes: ByShape) -> str:
    """Return the breakdown as a Markdown table."""
    parts = (*PARTS, "total", "host", "host_mean")
    rows = [(shape, str(own["steps"]), *(f"{own[part]:.3f}" for part in parts)) for shape, own in shapes.items()]
    return record.table(("batch", "steps", *PARTS, "total", "host", "host (mean)"), rows)


def host_verdict(shapes: ByShape) -> Verdict:
    """Return the verdict on the mean host work of steps that decode 17 to 32 rows, those with prompts included."""
    shape = shape_of(Step(HOST_TARGET_ROWS, 0, 0, 0, 0, 0, 0, 0))
    target = f"the engine's mean host work under {HOST_TARGET_MS:g} ms per step at {shape}, steps with prompts included"
    own = [shapes[name] for name in (shape, f"{shape} and prompts") if name in shapes]
    if not own:
        return Verdict(target, Word.NOT_MEASURED, "no such step")
    host = sum(one["steps"] * one["host_mean"] for one in own) / sum(one["steps"] for one in own)
    return judged(target, host < HOST_TARGET_MS, f"{host:.3f} ms")
