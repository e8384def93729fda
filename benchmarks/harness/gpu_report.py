"""The report on a GPU: the limit set by its memory, two models together against alternation, and the targets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.bandwidth import floor_seconds
from benchmarks.harness.figures import HEADER, Figures, row
from benchmarks.harness.plot import Panel, Point
from benchmarks.harness.record import Facts
from benchmarks.harness.targets import Verdict, Word, judged

H100, H100_TOKENS = "H100", 7000.0
TEXT, VISION, BOTH = "text", "vision", "both"


class EngineFigures(Figures):
    """The figures of one model in a window; step_ms: mean time of a step, None if there was none."""

    step_ms: float | None


# By measurement ("text, c=4") and model.
ByPoint = dict[str, dict[str, EngineFigures]]


@dataclass(slots=True)
class Measured:
    """The results so far, and the names of the measurements that were skipped for lack of time."""

    figures: ByPoint = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one decode step of a model reads, in bytes: its weights, and the cache per row."""

    kind: str
    weights: int
    row: float


def limits(demands: Sequence[Demand], clients: Sequence[int], bandwidth: float) -> dict[str, float]:
    """Return the tokens per second that the memory allows each model alone. bandwidth: bytes per second."""
    return {
        f"{demand.kind}, c={c}": c / floor_seconds(demand.weights, c * demand.row, bandwidth)
        for demand in demands
        for c in clients
    }


def together(figures: ByPoint, clients: int) -> float | None:
    """Return the throughput of both models over half of the sum of each alone: 1 is what alternation would give."""
    names = _points(clients)
    if any(name not in figures for name in names):
        return None
    alone = [figures[name][kind]["tokens_per_second"] for name, kind in zip(names, (TEXT, VISION), strict=False)]
    both = sum(own["tokens_per_second"] for own in figures[names[2]].values())
    return both / (sum(alone) / 2) if sum(alone) else None


def verdicts(figures: ByPoint, most: dict[str, float], clients: Sequence[int], card: str) -> list[Verdict]:
    """Return the verdict on each target that was measured. card: its name; one has a target of its own."""
    found = []
    for kind in (TEXT, VISION):
        name = f"{kind}, c=1"
        if name in figures:
            share = figures[name][kind]["tokens_per_second"] / most[name]
            target = f"{name}: at least 70% of the memory limit"
            found.append(_verdict(figures, [name], target, share >= 0.7, f"{share:.0%}"))
    if (name := f"{TEXT}, c=64") in figures:
        speed = figures[name][TEXT]["tokens_per_second"]
        target = f"{name}: at least {H100_TOKENS:,.0f} tokens/s on an {H100}"
        if H100 in card:
            found.append(_verdict(figures, [name], target, speed >= H100_TOKENS, f"{speed:.0f}"))
        else:
            found.append(Verdict(target, Word.NOT_MEASURED, f"{speed:.0f} on {card}"))
    for c in clients:
        if (ratio := together(figures, c)) is not None:
            names, target = _points(c), f"both, c={c} each: at least 90% of alternation"
            found.append(_verdict(figures, names, target, ratio >= 0.9, f"{ratio:.0%}"))
    return found


def _verdict(figures: ByPoint, names: Sequence[str], target: str, holds: bool, shown: str) -> Verdict:
    """Return the verdict on measurements, of which none may have failed requests."""
    if failed := sum(own["failures"] for name in names for own in figures[name].values()):
        return Verdict(target, Word.NOT_COMPARABLE, f"{shown}, {failed} failed")
    return judged(target, holds, shown)


def _points(clients: int) -> list[str]:
    """Return the names of the measurements with a number of clients."""
    return [f"{kind}, c={clients}" for kind in (TEXT, VISION, BOTH)]


def report(
    found: Facts, measured: Measured, most: dict[str, float], bandwidth: float, options: argparse.Namespace, card: str
) -> Path:
    """Write the results so far; return the path of the Markdown file."""
    figures, rows = measured.figures, list[tuple[str, ...]]()
    judgements = verdicts(figures, most, options.c, card)
    for point, models in figures.items():
        for kind, own in models.items():
            name = point if len(models) == 1 else f"{point}: {kind}"
            limit = most.get(point)
            step = "" if own["step_ms"] is None else f"{own['step_ms']:.2f}"
            rows.append((*row(name, own), step, "" if limit is None else f"{own['tokens_per_second'] / limit:.0%}"))
    tables = [
        record.table((*HEADER, "step, ms", "of the limit"), rows),
        f"Memory: {bandwidth / 1e9:.0f} GB/s measured by copying, read plus written.",
        record.table(("target", "measured", "verdict"), [(own.target, own.found, own.word) for own in judgements]),
    ]
    if measured.skipped:
        tables.append(f"Skipped for lack of time: {', '.join(measured.skipped)}.")
    written = {"figures": figures, "skipped": measured.skipped, "bandwidth": bandwidth, "limits": most}
    title, panels = "The engine on a GPU, random weights", _panels(figures, most, options.c)
    return record.write(options.name, found, written, title, tables, options.results, panels)


def _panels(figures: ByPoint, most: dict[str, float], clients: Sequence[int]) -> list[Panel]:
    drawn: list[Panel] = []
    for kind in (TEXT, VISION):
        series: dict[str, list[Point]] = {"memory limit": [[c, most[f"{kind}, c={c}"]] for c in clients]}
        for name, load in (("alone", kind), ("both at once", BOTH)):
            known = [(c, figures[point]) for c in clients if (point := f"{load}, c={c}") in figures]
            series[name] = [[c, models[kind]["tokens_per_second"]] for c, models in known]
        drawn.append({"title": f"Throughput, {kind}", "x": "clients", "y": "tokens/s", "series": series})
    return drawn
