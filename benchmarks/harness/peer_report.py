"""The tables and plots of servers that were compared on the same requests."""

from __future__ import annotations

from collections import Counter

from benchmarks.harness import record
from benchmarks.harness.comparison import Measured, comparison, failures, over_rounds, spread
from benchmarks.harness.plot import Panel, Point

SPEED = ("tokens_per_second",)
FIRST_TEXT, FIRST_TEXT_WORST = ("first_text_ms", "p50"), ("first_text_ms", "p99")


def table(measured: Measured, names: list[str], path: tuple[str, ...]) -> str:
    """Return a figure by server and load: median and extremes of the rounds, and how many requests failed."""

    def cell(server: str, name: str) -> str:
        known = [value for value in over_rounds(measured, server, name, path) if value is not None]
        lost, asked = failures(measured, server, name)
        return f"{spread(known) or ''}{f' ({lost} of {asked} failed)' if lost else ''}".strip()

    return record.table(("server", *names), [(server, *(cell(server, name) for name in names)) for server in measured])


def ratios(measured: Measured, names: list[str], own: str) -> str:
    """Return the tokens a second of `own` over those of each other server."""
    peers = [server for server in measured if server != own]
    rows = [(peer, *(str(comparison(measured, own, peer, name, SPEED)) for name in names)) for peer in peers]
    return record.table((f"{own} / peer", *names), rows)


def failed(measured: Measured) -> str:
    """Return the failed requests by server and reason, and the loads of which not one request succeeded."""
    errors: Counter[str] = Counter()
    lost = []
    for server, loads in measured.items():
        for figures in (own for rounds in loads.values() for own in rounds):
            errors.update({f"{server}: {error}": count for error, count in figures["errors"].items()})
        counts = {load: failures(measured, server, load) for load in loads}
        lost += [f"{server}, {load}" for load, (count, asked) in counts.items() if count == asked]
    reasons = "; ".join(f"{reason} ({count})" for reason, count in errors.items())
    all_lost = f" Not one request succeeded: {'; '.join(lost)}." if lost else ""
    return f"Failed requests: {errors.total()}. {reasons}".rstrip() + all_lost


def panels(measured: Measured, clients: list[int]) -> list[Panel]:
    """Return the plots, by number of clients."""

    def points(server: str, path: tuple[str, ...]) -> list[Point]:
        drawn: list[Point] = []
        for c in clients:
            known = [value for value in over_rounds(measured, server, f"c={c}", path) if value is not None]
            if (own := spread(known)) is not None:
                drawn.append([c, own.median, own.lowest, own.highest])
        return drawn

    wanted = (("Throughput", "tokens/s", SPEED), ("First text, p50", "ms", FIRST_TEXT))
    return [
        {"title": title, "x": "clients", "y": unit, "series": {server: points(server, path) for server in measured}}
        for title, unit, path in wanted
    ]
