"""What the operator's page shows of the last hour: tiles, lines of the plots, and the table of the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge.errors import is_clients_mistake
from edge.readiness import overall
from routes.locale import visitors_locale
from routes.services import services
from telemetry.metrics.history import INTERVAL, Sample

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The vertical axis of a plot: it reaches at least to `least`, so that little looks like little.

    whole: of counts, without halves; fixed: it does not grow.
    """

    least: int
    whole: bool = False
    fixed: bool = False


AXES = {
    "tokens": Axis(10),
    "requests": Axis(4, whole=True),
    "first_token": Axis(1),
    "memory": Axis(100, fixed=True),
    "errors": Axis(4, whole=True),
    "mistakes": Axis(4, whole=True),
}
EVENTS = ("errors", "mistakes")  # plots whose lines are what happened, by its code
TIMES = ("first_token",)  # plots of times, in seconds


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. model: or GPU, "" for all. values: one for each sample."""

    plot: str
    key: str
    model: str
    values: Values


def figures() -> dict[str, Any]:
    """Return the tiles, the lines of each plot with their last values, and the table of all lines."""
    texts = visitors_locale().texts["status"]
    taken = services().metrics.history.samples()
    lines = list(lines_of(taken))
    return {
        "times": TIMES,
        "status": overall(services().models.states()).value,
        "tiles": _tiles(taken, texts),
        "axes": AXES,
        "events": EVENTS,
        "legends": {plot: [_entry(line, texts) for line in lines if line.plot == plot] for plot in AXES},
        "rows": [_row(line, texts) for line in lines],
    }


def lines_of(taken: Sequence[Sample]) -> Iterator[Line]:
    """Yield every line of every plot."""
    models = [name for name, _ in services().models]
    for name in models:
        yield Line("tokens", "tokens", name, [sample.tokens[name] for sample in taken])
    for name in models:
        yield Line("requests", "running", name, [sample.running[name] for sample in taken])
        yield Line("requests", "waiting", name, [sample.waiting[name] for sample in taken])
    yield Line("first_token", "p50", "", [sample.first_token_p50 for sample in taken])
    yield Line("first_token", "p95", "", [sample.first_token_p95 for sample in taken])
    gpus = sorted({gpu for sample in taken for gpu in sample.gpu_memory})
    for gpu in gpus:
        name = gpu if len(gpus) > 1 else ""
        yield Line("memory", "gpu_memory", name, [_percent(sample.gpu_memory.get(gpu)) for sample in taken])
        yield Line("memory", "gpu_busy", name, [_percent(sample.gpu_busy.get(gpu)) for sample in taken])
    for name in models:
        yield Line("memory", "cache", name, [_percent(sample.cache[name]) for sample in taken])
    for code in sorted({code for sample in taken for code in sample.errors}):
        plot = "mistakes" if is_clients_mistake(code) else "errors"
        yield Line(plot, code, "", [sample.errors.get(code, 0) for sample in taken])


def duration(seconds: float, texts: dict[str, Any]) -> str:
    """Return a time in its two largest units: days and hours, hours and minutes, or minutes."""
    minutes = int(seconds) // 60
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    kind = "days" if days else "hours" if hours else "minutes"
    text: str = texts["durations"][kind]
    return text.format(days=days, hours=hours, minutes=minutes)


def _tiles(taken: Sequence[Sample], texts: dict[str, Any]) -> dict[str, str]:
    last = taken[-1] if taken else None
    measured = [sample.first_token_p50 for sample in taken if sample.first_token_p50 is not None]
    failed = [(code, count) for sample in taken for code, count in sample.errors.items()]
    stats = [backend.stats() for _, backend in services().models]
    return {
        "state": texts["states"][overall(services().models.states()).value],
        "tokens": _shown(sum(last.tokens.values()) if last else 0),
        "running": _shown(sum(one.num_requests_running for one in stats)),
        "waiting": _shown(sum(one.num_requests_waiting for one in stats)),
        "first_token": _with_unit(measured[-1] if measured else None, "first_token", texts),
        "answers": _shown(sum(sample.answers for sample in taken)),
        "errors": _shown(sum(count for code, count in failed if not is_clients_mistake(code))),
        "mistakes": _shown(sum(count for code, count in failed if is_clients_mistake(code))),
    }


def _label(line: Line, texts: dict[str, Any]) -> str:
    """Return the name of a line; errors are named by their code, models by their name."""
    text: str = texts["series"].get(line.key, line.model or line.key).format(model=line.model)
    return text if line.model in text else f"{text} {line.model}"


def _entry(line: Line, texts: dict[str, Any]) -> tuple[str, str]:
    return _label(line, texts), _with_unit(_last(line.values), line.plot, texts)


def _row(line: Line, texts: dict[str, Any]) -> tuple[str, str, str, str]:
    known = [value for value in line.values if value is not None]
    mean = sum(known) / len(known) if known else None
    shown = [_with_unit(value, line.plot, texts) for value in (_last(known), mean, max(known, default=None))]
    plot = texts["plots"][line.plot].format(seconds=round(INTERVAL))
    return f"{plot}: {_label(line, texts)}", shown[0], shown[1], shown[2]


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _with_unit(value: float | None, plot: str, texts: dict[str, Any]) -> str:
    if value is None:
        return _shown(value)
    if plot in TIMES:
        return visitors_locale().duration(value)
    unit: str = texts["units"].get(plot, "{value}")
    return unit.format(value=_shown(value))


def _shown(value: float | None) -> str:
    return "–" if value is None else visitors_locale().figure(value)
