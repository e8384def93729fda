"""What a scrape reads of the parts of the service: each figure under its own name, as alerts and dashboards read it."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from engine.types import ServerReport
from telemetry.metrics.backup import BackupMetrics
from telemetry.metrics.machine import GIB
from telemetry.metrics.prometheus import REFUSALS, WATCHED_ENDS, CacheFigures, PrometheusMetrics
from telemetry.metrics.spending import SpendingMetrics
from telemetry.metrics.upstreams import UpstreamMetrics
from telemetry.metrics.usage import UsageMetrics, shown_usage
from telemetry.protocol import Protocol
from tests.fakes import FakeMachine, scripted_models

Samples = dict[tuple[str, ...], float]


def samples(registry: CollectorRegistry) -> Samples:
    """Return the values by name and labels, without the prefix of all."""
    return {
        (sample.name.removeprefix("avito_ai_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def collected(collector: Collector) -> Samples:
    registry = CollectorRegistry()
    registry.register(collector)
    return samples(registry)


def test_how_usage_is_kept() -> None:
    """What is lost is told apart from what waits, and failures by where they were."""
    figures = SimpleNamespace(
        recorded=100,
        journal_failures=2,
        database_failures=3,
        damaged=4,
        lost=5,
        waiting_bytes=60,
        in_memory=7,
        lag=8.0625,
    )
    assert collected(UsageMetrics(lambda: figures)) == {
        ("usage_records_total",): 100,
        ("usage_lost_records_total",): 9,
        ("usage_failures_total", "journal"): 2,
        ("usage_failures_total", "database"): 3,
        ("usage_lag_seconds",): 8.0625,
        ("usage_journal_bytes",): 60,
        ("usage_memory_records",): 7,
    }
    assert shown_usage(figures) == {"recorded": 100, "lag_seconds": 8.062, "failures": 5, "lost": 9}


def test_a_backup_that_failed() -> None:
    """The last good one keeps its times and its size."""
    noted = SimpleNamespace(created=12.0, tested=10.0, size=7, failed="the disk is full")
    assert collected(BackupMetrics(lambda: noted)) == {
        ("backup_timestamp_seconds",): 12,
        ("backup_test_timestamp_seconds",): 10,
        ("backup_size_bytes",): 7,
        ("backup_failed",): 1,
    }


def test_servers_elsewhere_by_model_and_number() -> None:
    """Of the states of a breaker one is 1."""
    reports = {
        "avibe": [
            ServerReport("http://a/v1", "open", 1, 20, {"reset": 3, "status_500": 4}, "reset", 1.0, None, 5),
            ServerReport("http://b/v1", "half-open", 0, 6, {}, None, None, 1.0, 0),
        ]
    }
    assert collected(UpstreamMetrics(lambda: reports)) == {
        ("upstream_state", "avibe", "0", "closed"): 0,
        ("upstream_state", "avibe", "0", "half-open"): 0,
        ("upstream_state", "avibe", "0", "open"): 1,
        ("upstream_state", "avibe", "1", "closed"): 0,
        ("upstream_state", "avibe", "1", "half-open"): 1,
        ("upstream_state", "avibe", "1", "open"): 0,
        ("upstream_requests_outstanding", "avibe", "0"): 1,
        ("upstream_requests_outstanding", "avibe", "1"): 0,
        ("upstream_requests_total", "avibe", "0"): 20,
        ("upstream_requests_total", "avibe", "1"): 6,
        ("upstream_breaker_openings_total", "avibe", "0"): 5,
        ("upstream_breaker_openings_total", "avibe", "1"): 0,
        ("upstream_failures_total", "avibe", "0", "reset"): 3,
        ("upstream_failures_total", "avibe", "0", "status_500"): 4,
    }


def test_what_is_spent_and_refused() -> None:
    """In the currency, and not in its millionths; a limit that has refused nothing yet is 0 from the start."""
    registry = CollectorRegistry()
    metrics = SpendingMetrics(registry, ["avibe", "avision"])
    metrics.watch(
        ["tokens_per_day", "money_per_day"],
        service=lambda: {"day": 0.25, "month": 0.5},
        accounts=lambda: {"nearly_spent": 2, "spent": 1},
        stale=lambda: True,
        webhook_failures=lambda: 3,
    )
    metrics.refused("money_per_day")
    metrics.spent("avibe", 1_500_000)
    metrics.spent("avibe", 250_000)
    assert samples(registry) == {
        ("limit_refusals_total", "tokens_per_day"): 0,
        ("limit_refusals_total", "money_per_day"): 1,
        ("cost_total", "avibe"): 1.75,
        ("cost_total", "avision"): 0,
        ("budget_used_ratio", "day"): 0.25,
        ("budget_used_ratio", "month"): 0.5,
        ("account_budgets", "nearly_spent"): 2,
        ("account_budgets", "spent"): 1,
        ("budgets_stale",): 1,
        ("webhook_failures_total",): 3,
    }
    assert metrics.total == 1_750_000


def test_what_the_service_holds() -> None:
    """Entries and bytes of each cache, restarts, failures, keys, and the machine in ratios."""
    cache = CacheFigures(entries=10, size=11, hits=12, misses=13)
    metrics = PrometheusMetrics(
        scripted_models(), FakeMachine(), lambda: 4, lambda: 5, lambda: (6, 7), lambda: (8, 9), lambda: cache
    )
    metrics.watch_streams(lambda: (14, 15))
    metrics.watch_keys(lambda: 16, lambda: True)
    metrics.watch_batches(lambda: (17, 18, 19))
    expected = {
        "rate_limit_storage_failures_total": 4,
        "image_worker_restarts_total": 5,
        "grammar_cache_entries": 6,
        "grammar_cache_bytes": 7,
        "stored_responses": 8,
        "stored_responses_bytes": 9,
        "answer_cache_entries": 10,
        "answer_cache_bytes": 11,
        "answer_cache_hits_total": 12,
        "answer_cache_misses_total": 13,
        "resumable_streams": 14,
        "resumable_streams_bytes": 15,
        "client_keys": 16,
        "client_keys_stale": 1,
        "batches_in_flight": 17,
        "max_batches": 18,
        "batches_refused_total": 19,
        "system_cpu_ratio": pytest.approx(0.152),
        "system_memory_ratio": pytest.approx(0.458),
        "system_memory_available_bytes": 128.5 * GIB,
        "system_disk_ratio": pytest.approx(0.602),
    }
    found = samples(metrics.registry)
    assert {name: found[name,] for name in expected} == expected


def test_what_alerts_count_is_zero_from_the_start() -> None:
    """Prometheus sees no increase in a series that begins with its first event."""
    found = samples(PrometheusMetrics(scripted_models(), FakeMachine(), lambda: 0).registry)
    expected = {("rate_limit_refusals_total", "generation", window) for window in ("minute", "hour")}
    expected |= {("credential_refusals_total", reason) for reason in REFUSALS}
    expected |= {
        ("requests_total", model, protocol.value, status)
        for model, protocol, status in product(("avibe", "avision"), Protocol, WATCHED_ENDS)
    }
    assert {series: found.get(series) for series in expected} == dict.fromkeys(expected, 0)


def test_a_method_that_nobody_knows_has_no_series_of_its_own() -> None:
    """A client could make as many as it likes."""
    metrics = PrometheusMetrics(scripted_models(), FakeMachine(), lambda: 0)
    for method in ("GET", "BREW", "WHEN"):
        metrics.http(method, None, 404, 0.5)
    found = samples(metrics.registry)
    assert {one: value for one, value in found.items() if one[0] == "http_requests_total"} == {
        ("http_requests_total", "GET", "unmatched", "404"): 1,
        ("http_requests_total", "other", "unmatched", "404"): 2,
    }
