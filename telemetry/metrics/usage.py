"""Metrics of how usage is kept: what was recorded, and what the database does not have yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class KeptUsage(Protocol):
    """Counters of records, and what waits; `usage.recorder.RecorderFigures`."""

    @property
    def recorded(self) -> int: ...
    @property
    def journal_failures(self) -> int: ...
    @property
    def database_failures(self) -> int: ...
    @property
    def damaged(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def in_memory(self) -> int: ...
    @property
    def lag(self) -> float: ...


class UsageMetrics(Collector):
    """Reads the counters at each scrape."""

    def __init__(self, figures: Callable[[], KeptUsage]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        figures = self._figures()
        recorded, lost = "Requests recorded in usage.", "Recorded requests that found no room, or were damaged."
        yield CounterMetricFamily("avito_ai_usage_records", recorded, value=figures.recorded)
        yield CounterMetricFamily("avito_ai_usage_lost_records", lost, value=figures.lost + figures.damaged)
        text = "Failures to write usage, to the journal or to the database."
        failures = CounterMetricFamily("avito_ai_usage_failures", text, labels=["where"])
        failures.add_metric(["journal"], figures.journal_failures)
        failures.add_metric(["database"], figures.database_failures)
        yield failures
        text = "Seconds for which the oldest record has waited for the database."
        yield GaugeMetricFamily("avito_ai_usage_lag_seconds", text, value=figures.lag)
        text = "Bytes of the journal that the database does not have."
        yield GaugeMetricFamily("avito_ai_usage_journal_bytes", text, value=figures.waiting_bytes)
        text = "Recorded requests that neither the journal nor the database has."
        yield GaugeMetricFamily("avito_ai_usage_memory_records", text, value=figures.in_memory)


def shown_usage(figures: KeptUsage) -> dict[str, int | float]:
    """Return the figures as `GET /api/metrics` shows them."""
    return {
        "recorded": figures.recorded,
        "lag_seconds": round(figures.lag, 3),
        "failures": figures.journal_failures + figures.database_failures,
        "lost": figures.lost + figures.damaged,
    }
