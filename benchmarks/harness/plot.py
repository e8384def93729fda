"""Plots of results files: a PNG beside the JSON, where matplotlib is installed.

A record's "plot" is a list of panels: {"title", "x", "y", "series": {name: [[x, y], ...]}}, where a point may be
[x, y, lowest, highest] to show a spread, and "target": y draws a line to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANEL_INCHES = (6.0, 4.2)


def draw(path: Path) -> Path | None:
    """Draw the panels of a results file; return the PNG, None where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = json.loads(path.read_text(encoding="utf-8"))["plot"]
    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw_panel(axis, panel)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
    return path.with_suffix(".png")


def _draw_panel(axis: Any, panel: dict[str, Any]) -> None:
    for name, points in panel["series"].items():
        whole = [point for point in points if point[1] is not None]
        xs, ys = [point[0] for point in whole], [point[1] for point in whole]
        axis.errorbar(xs, ys, yerr=_spread(whole), marker="o", markersize=4, capsize=3, label=name)
    if panel.get("target") is not None:
        axis.axhline(panel["target"], color="grey", linestyle="--", linewidth=1)
    axis.set(title=panel["title"], xlabel=panel["x"], ylabel=panel["y"])
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if panel["series"]:
        axis.legend()


def _spread(points: Sequence[Sequence[float]]) -> list[list[float]] | None:
    if not points or any(len(point) < 4 for point in points):
        return None
    return [[y - lowest for _, y, lowest, _ in points], [highest - y for _, y, _, highest in points]]
