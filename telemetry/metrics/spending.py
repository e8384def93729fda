"""Metrics of money, budgets and limits. Money is added as whole millionths, so that it agrees with usage exactly.

`/metrics` is open to all, so it names no account: how many budgets are nearly spent, but not whose.
"""

from __future__ import annotations

import threading
from collections import Counter as Sums
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config import MILLION


class SpendingMetrics(Collector):
    """What answers cost, what limits refused, and how far budgets are spent. Thread-safe."""

    def __init__(self, registry: CollectorRegistry, models: Iterable[str]) -> None:
        text = "Requests refused by a budget, or by a limit of tokens or concurrent requests."
        self._refusals = Counter("avito_ai_limit_refusals", text, ["limit"], registry=registry)
        self._lock = threading.Lock()  # guards the costs
        self._costs: Sums[str] = Sums(dict.fromkeys(models, 0))
        self._service: Callable[[], Mapping[str, float]] = dict
        self._accounts: Callable[[], Mapping[str, int]] = dict
        self._stale: Callable[[], bool] = bool
        self._webhook_failures: Callable[[], int] = int
        registry.register(self)

    def watch(
        self,
        limits: Iterable[str],
        service: Callable[[], Mapping[str, float]],
        accounts: Callable[[], Mapping[str, int]],
        stale: Callable[[], bool],
        webhook_failures: Callable[[], int],
    ) -> None:
        """Export more. limits: names of those that may refuse; service: used share of its budgets, by period.

        accounts: the number of budgets by state; stale: whether the database cannot be read;
        webhook_failures: how many events were not posted.
        """
        self._service, self._accounts, self._stale = service, accounts, stale
        self._webhook_failures = webhook_failures
        for limit in limits:
            self._refusals.labels(limit)

    def refused(self, limit: str) -> None:
        """Count a refused request; limit: its name."""
        self._refusals.labels(limit).inc()

    def spent(self, model: str, cost: int) -> None:
        """Count what an answer cost, in millionths."""
        with self._lock:
            self._costs[model] += cost

    @property
    def total(self) -> int:
        """What all answers cost, in millionths."""
        with self._lock:
            return self._costs.total()

    def collect(self) -> Iterator[Metric]:
        """Yield what is read at each scrape."""
        with self._lock:
            costs = dict(self._costs)
        text = "Cost of answers, in the currency of the settings."
        cost = CounterMetricFamily("avito_ai_cost", text, labels=["model"])
        for model, millionths in costs.items():
            cost.add_metric([model], millionths / MILLION)
        yield cost
        yield _gauge("budget_used_ratio", "Used share of the service's budget.", "period", self._service())
        yield _gauge(
            "account_budgets", "Budgets of accounts in use that are nearly spent, or spent.", "state", self._accounts()
        )
        text, stale = "1 while usage cannot be read from the database.", float(self._stale())
        yield GaugeMetricFamily("avito_ai_budgets_stale", text, value=stale)
        text = "Events that could not be posted to the webhook."
        yield CounterMetricFamily("avito_ai_webhook_failures", text, value=self._webhook_failures())


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"avito_ai_{name}", text, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], value)
    return family
