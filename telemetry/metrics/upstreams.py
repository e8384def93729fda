"""Metrics of the servers elsewhere that answer for models. A server is named by its number in the settings, from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.types import ServerReport

BREAKER_STATES = ("closed", "half-open", "open")
SERVER = ["model", "server"]

Reports = Callable[[], Mapping[str, Sequence[ServerReport]]]


class UpstreamMetrics(Collector):
    """Reads what is known of the servers at each scrape. reports: by model, in the order of the settings."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        found = [
            (model, str(number), one)
            for model, reports in self._reports().items()
            for number, one in enumerate(reports)
        ]
        text = "1 for the state that a server's circuit breaker is in."
        states = GaugeMetricFamily("avito_ai_upstream_state", text, labels=[*SERVER, "state"])
        text = "Requests that a server has not ended."
        outstanding = GaugeMetricFamily("avito_ai_upstream_requests_outstanding", text, labels=SERVER)
        requests = CounterMetricFamily("avito_ai_upstream_requests", "Requests sent to a server.", labels=SERVER)
        openings = CounterMetricFamily("avito_ai_upstream_breaker_openings", "Openings of a breaker.", labels=SERVER)
        text = "Failed attempts at a server, by kind."
        failures = CounterMetricFamily("avito_ai_upstream_failures", text, labels=[*SERVER, "kind"])
        for model, number, one in found:
            for state in BREAKER_STATES:
                states.add_metric([model, number, state], float(one.state == state))
            outstanding.add_metric([model, number], one.outstanding)
            requests.add_metric([model, number], one.requests)
            openings.add_metric([model, number], one.opened)
            for kind, count in one.failures.items():
                failures.add_metric([model, number, kind], count)
        yield from (states, outstanding, requests, openings, failures)
