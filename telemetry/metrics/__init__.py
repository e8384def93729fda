"""Metrics: the application's figures, the machine's, and their exposition for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.backend import Models
from engine.types import Completion
from telemetry.metrics.application import ApplicationFigures
from telemetry.metrics.backup import BackupMetrics, NotedBackup
from telemetry.metrics.busiest import Busiest
from telemetry.metrics.history import History
from telemetry.metrics.machine import Machine
from telemetry.metrics.prometheus import CacheFigures, PrometheusMetrics
from telemetry.metrics.spending import SpendingMetrics
from telemetry.metrics.upstreams import Reports, UpstreamMetrics
from telemetry.metrics.usage import KeptUsage, UsageMetrics
from telemetry.protocol import Protocol

SUCCESS = "success"
# Refusals of a caller, and no failures of the service.
REFUSED = {"rate_limit_exceeded", "budget_exceeded", "unauthorized", "forbidden"}
ABORTED = "request_aborted"  # by the client, so not an error of the service


class Metrics:
    """All metrics of one application. Times are in seconds; `uptime` counts from construction."""

    def __init__(
        self,
        models: Models,
        machine: Machine,
        shared_limit_failures: Callable[[], int],
        image_restarts: Callable[[], int] = lambda: 0,
        grammar_cache: Callable[[], tuple[int, int]] = lambda: (0, 0),
        stored_responses: Callable[[], tuple[int, int]] = lambda: (0, 0),
        answer_cache: Callable[[], CacheFigures] = CacheFigures,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.application = ApplicationFigures()
        self.prometheus = PrometheusMetrics(
            models, machine, shared_limit_failures, image_restarts, grammar_cache, stored_responses, answer_cache
        )
        self.spending = SpendingMetrics(self.prometheus.registry, (name for name, _ in models))
        self.history = History(models, machine)
        self.busiest = Busiest(clock)
        self.machine = machine
        self.usage: Callable[[], KeptUsage] | None = None
        self._clock = clock
        self._began = clock()

    def watch_usage(self, figures: Callable[[], KeptUsage]) -> None:
        """Export how usage is kept."""
        self.usage = figures
        self.prometheus.registry.register(UsageMetrics(figures))

    def watch_backup(self, status: Callable[[], NotedBackup | None]) -> None:
        """Export what is noted of the last backup."""
        self.prometheus.registry.register(BackupMetrics(status))

    def watch_upstreams(self, reports: Reports) -> None:
        """Export what is known of servers elsewhere."""
        self.prometheus.registry.register(UpstreamMetrics(reports))

    @property
    def uptime(self) -> float:
        """Seconds since the application was created."""
        return self._clock() - self._began

    def generation_succeeded(
        self, model: str, protocol: Protocol | None, completion: Completion, seconds: float
    ) -> None:
        """Count a completed answer; seconds: from the request's arrival."""
        self.prometheus.ended(model, protocol, SUCCESS)
        if completion.from_cache:  # the model has generated nothing, and took no time
            self.application.succeeded(model, seconds, 0)
            self.history.answered(None)
            return
        self.application.succeeded(model, seconds, completion.output_tokens)
        self.prometheus.completed(model, completion)
        self.history.answered(completion.timings.first_token)

    def spent(self, model: str, cost: int) -> None:
        """Count the cost of a request, in millionths of the currency."""
        self.application.spent(cost)
        self.spending.spent(model, cost)

    def rated(self, model: str, rating: str) -> None:
        """Count a rating of an answer by its model; rating: up or down."""
        self.prometheus.rated(model, rating)
        self.application.rated(model, rating)

    def generation_failed(self, model: str, protocol: Protocol | None, code: str) -> None:
        """Count a generation request that ended with this error code; a refused caller is no failure of the service."""
        self.prometheus.ended(model, protocol, code)
        if code != ABORTED:
            self.history.failed(code)
        if code not in REFUSED:
            self.application.failed()
