"""Stacked bars for a template: rectangles in a box of a hundred by a hundred, and the marks of its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10

GAP = 0.2  # of a bar's width
COLOURS = 6  # in the style sheet


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of one series in one period; title: what it says of itself."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart. ticks: of the vertical axis, from the top; dates: the first, the middle and the last period."""

    bars: list[Bar]
    ticks: list[str]
    dates: list[str]
    legend: list[tuple[str, int, str]]


def stacked(
    series: Mapping[str, Sequence[float]], periods: Sequence[str], shown: Callable[[float], str], least: float
) -> Bars:
    """Return the chart of series, each with a value for each period. least: what the axis reaches at least."""
    highest = max((sum(values) for values in zip(*series.values(), strict=True)), default=0.0)
    top, width = reach(max(highest, least)), 100 / max(1, len(periods))
    bars, bases = [], [0.0] * len(periods)
    for number, (name, values) in enumerate(series.items()):
        for place, value in enumerate(values):
            if value:
                bases[place] += value
                y, height = 100 - 100 * bases[place] / top, 100 * value / top
                x, title = width * (place + GAP / 2), f"{periods[place]}, {name}: {shown(value)}"
                bars.append(Bar(*_rounded(x, y, width * (1 - GAP), height), number % COLOURS, title))
    legend = [(name, number % COLOURS, shown(sum(values))) for number, (name, values) in enumerate(series.items())]
    dates = [periods[place] for place in dict.fromkeys((0, len(periods) // 2, len(periods) - 1))] if periods else []
    return Bars(bars, [shown(top), shown(top / 2), shown(0)], dates, legend)


def _rounded(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return round(x, 2), round(y, 2), round(width, 2), round(height, 2)


def reach(value: float) -> float:
    """Return the smallest of 1, 2, 4, 5 times a power of ten that is at least the value."""
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value * (1 - 1e-9))
