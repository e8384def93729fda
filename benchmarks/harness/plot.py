"""Plots of results files: a PNG beside the JSON, if matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = (6.0, 4.2)

# (x, y), or (x, y, lowest, highest) to show a spread; y is None where it is unknown.
Point = Sequence[float | None]


class Panel(TypedDict):
    """One diagram. target: draws a line at this y."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[Point]]
    target: NotRequired[float]


def draw(path: Path) -> Path | None:
    """Draw the panels under "plot" of a results file; return the PNG, None if matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: list[Panel] = json.loads(path.read_text(encoding="utf-8"))["plot"]
    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw_panel(axis, panel)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
    return path.with_suffix(".png")


def _draw_panel(axis: Axes, panel: Panel) -> None:
    for name, points in panel["series"].items():
        known = [[value for value in point if value is not None] for point in points if point[1] is not None]
        xs, ys = [point[0] for point in known], [point[1] for point in known]
        axis.errorbar(xs, ys, yerr=_spread(known), marker="o", markersize=4, capsize=3, label=name)
    if (target := panel.get("target")) is not None:
        axis.axhline(target, color="grey", linestyle="--", linewidth=1)
    axis.set(title=panel["title"], xlabel=panel["x"], ylabel=panel["y"])
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if panel["series"]:
        axis.legend()


def _spread(points: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """Return the distances below and above each y, None unless every point has its extremes."""
    if not points or any(len(point) < 4 for point in points):
        return None
    return [[y - lowest for _, y, lowest, _ in points], [highest - y for _, y, _, highest in points]]
