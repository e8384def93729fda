"""What the figures of a GPU mean: the floor its memory sets, what two models do together, and what is aimed at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.bandwidth import floor_seconds
from benchmarks.harness.figures import HEADER, row

H100_TOKENS = 7000.0
TEXT, VISION, BOTH = "text", "vision", "both"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one decode step of a model reads, in bytes: its weights once, and the cache of each row."""

    kind: str
    weights: int
    row: float


def floors(demands: Sequence[Demand], clients: Sequence[int], bandwidth: float) -> dict[str, float]:
    """Return the most tokens a second that the memory allows each model alone. bandwidth: bytes a second."""
    return {
        f"{demand.kind}, c={c}": c / floor_seconds(demand.weights, c * demand.row, bandwidth)
        for demand in demands
        for c in clients
    }


def together(figures: dict[str, Any], clients: int) -> float | None:
    """Return what both models make together as a share of half of each alone: 1 is what taking turns would give."""
    names = [f"{kind}, c={clients}" for kind in (TEXT, VISION, BOTH)]
    if any(name not in figures for name in names):
        return None
    alone = [figures[name][kind]["tokens_per_second"] for name, kind in zip(names, (TEXT, VISION), strict=False)]
    both = sum(own["tokens_per_second"] for own in figures[names[2]].values())
    return both / (sum(alone) / 2) if sum(alone) else None


def verdicts(figures: dict[str, Any], most: dict[str, float], clients: Sequence[int]) -> list[tuple[str, str, str]]:
    """Return a row for each aim that was measured: what, the figure, met or missed."""
    rows = []
    for kind in (TEXT, VISION):
        name = f"{kind}, c=1"
        if name in figures:
            share = figures[name][kind]["tokens_per_second"] / most[name]
            rows.append((f"{name}: at least 70% of the memory's floor", f"{share:.0%}", _word(share >= 0.7)))
    if (name := f"{TEXT}, c=64") in figures:
        speed = figures[name][TEXT]["tokens_per_second"]
        rows.append((f"{name}: at least 7,000 tokens/s on an H100", f"{speed:.0f}", _word(speed >= H100_TOKENS)))
    for c in clients:
        if (share := together(figures, c)) is not None:
            rows.append((f"both, c={c} each: at least 85% of taking turns", f"{share:.0%}", _word(share >= 0.85)))
    return rows


def _word(met: bool) -> str:
    return "met" if met else "missed"


def report(found: dict[str, Any], done: dict[str, Any], asked: argparse.Namespace) -> Path:
    """Write what is known; return the Markdown file."""
    figures, most = done["figures"], done["floors"]
    rows = []
    for point, models in figures.items():
        for kind, own in models.items():
            name = point if len(models) == 1 else f"{point}: {kind}"
            share = own["tokens_per_second"] / most[point] if point in most else None
            step = "" if own["step_ms"] is None else f"{own['step_ms']:.2f}"
            rows.append((*row(name, own), step, "" if share is None else f"{share:.0%}"))
    tables = [
        record.table((*HEADER, "step, ms", "of the floor"), rows),
        f"Memory: {done['bandwidth'] / 1e9:.0f} GB/s by copying, read and written together.",
        record.table(("aim", "measured", "verdict"), verdicts(figures, most, asked.c)),
    ]
    if done["left_out"]:
        tables.append(f"Left out, because the time was over: {', '.join(done['left_out'])}.")
    written = {"facts": found, **done, "plot": _panels(figures, most, asked.c)}
    return record.write(asked.name, written, "The engine on a GPU, random weights", tables, asked.results)


def _panels(figures: dict[str, Any], most: dict[str, float], clients: Sequence[int]) -> list[dict[str, Any]]:
    drawn = []
    for kind in (TEXT, VISION):
        series = {"the memory's floor": [[c, most[f"{kind}, c={c}"]] for c in clients]}
        for name, load in (("alone", kind), ("both at once", BOTH)):
            known = [(c, figures[point]) for c in clients if (point := f"{load}, c={c}") in figures]
            series[name] = [[c, models[kind]["tokens_per_second"]] for c, models in known]
        drawn.append({"title": f"Throughput, {kind}", "x": "clients", "y": "tokens/s", "series": series})
    return drawn
