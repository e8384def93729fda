"""Prometheus metrics. Names follow vLLM's with the prefix `avito_ai_`; the values of every label are bounded.

Request counters are kept here; what the backends count themselves is read from them at each scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.backend import Models
from engine.types import BackendState, BackendStats, Completion, Status
from telemetry.metrics.machine import GpuFigures, Machine, SystemFigures
from telemetry.metrics.shared_text import SharedText
from telemetry.metrics.without_names import WithoutNames
from telemetry.protocol import Protocol
from telemetry.version import RELEASE, VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}
UNMATCHED = "unmatched"
SERIES = 1024  # that are found at once
SCRAPE_SECONDS = 1.0  # for which a scrape without names is kept: it is free to ask for, and takes several milliseconds
# Of client keys and tokens with a series of their own; what is beyond counts as `other`.
MAX_KEYS, OTHER_KEYS = 200, "other"
REFUSALS = ("missing", "wrong", "disabled", "expired")
# Statuses exported as zero from the start: Prometheus sees no increase in a series that begins with its first event.
WATCHED_ENDS = (
    "success",
    "overloaded",
    "not_ready",
    "deadline_exceeded",
    "model_error",
    "internal_error",
    "upstream_error",
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

GAUGES = {
    "num_requests_running": "Running sequences.",
    "num_requests_waiting": "Waiting sequences.",
    "max_num_seqs": "Maximum concurrent sequences.",
    "max_waiting": "Maximum waiting sequences.",
    "kv_cache_tokens_used": "Tokens in the KV cache.",
    "kv_cache_tokens_capacity": "Capacity of the KV cache in tokens.",
    "seconds_since_step": "Seconds since the engine's last step.",
    "estimated_wait_seconds": "Estimated queueing time of a new request in seconds.",
}
COUNTS = {
    "prompt_tokens": "Prompt tokens.",
    "cached_tokens": "Prompt tokens found in the prefix cache.",
    "generation_tokens": "Generated tokens.",
    "nan_logits": "Rows of logits with NaN or infinite values.",
    "preemptions": "Running sequences returned to the waiting queue so that others could run.",
    "draft_tokens": "Tokens drafted from the text so far and verified.",
    "accepted_draft_tokens": "Drafted tokens that were chosen: each saved a step.",
    "engine_restarts": "Restarts of the engine thread.",
    "steps": "Engine steps.",
}


class CacheFigures(NamedTuple):
    """What the answer cache holds now, and how many requests it was asked for. size: in bytes."""

    entries: int = 0
    size: int = 0
    hits: int = 0
    misses: int = 0


RATINGS = ("up", "down")


class PrometheusMetrics:
    """The metrics of one application, in a registry of its own.

    shared_limit_failures: returns the number of failed calls to the shared storage of rate limits; image_restarts: that
    of processes which decoded images and had to be replaced; grammar_cache, stored_responses: the number of those that
    are kept, and their bytes; answer_cache: its figures.
    """

    def __init__(
        self,
        models: Models,
        machine: Machine,
        shared_limit_failures: Callable[[], int],
        image_restarts: Callable[[], int] = lambda: 0,
        grammar_cache: Callable[[], tuple[int, int]] = lambda: (0, 0),
        stored_responses: Callable[[], tuple[int, int]] = lambda: (0, 0),
        answer_cache: Callable[[], CacheFigures] = lambda: CacheFigures(),
    ) -> None:
        self.registry = CollectorRegistry()
        self._without_names = SharedText(lambda: generate_latest(WithoutNames(self.registry)), SCRAPE_SECONDS)
        self._http = self._counter("http_requests", "HTTP requests.", "method", "route", "status")
        self._http_seconds = self._histogram("http_request_duration_seconds", "Time to the headers.", SECONDS, "route")
        self._refusals = self._counter("rate_limit_refusals", "Requests refused by a rate limit.", "budget", "window")
        self._key_requests = self._counter("key_requests", "HTTP requests by client key or token.", "key", "status")
        self._keys: set[str] = set()
        self._credentials = self._counter(
            "credential_refusals", "Requests refused because of their key or token.", "reason"
        )
        for reason in REFUSALS:
            self._credentials.labels(reason)
        self._requests = self._counter(
            "requests", "Generation requests by final status.", "model", "protocol", "status"
        )
        # Looking a series up costs more than counting in it, which happens for each refusal of a flood too.
        self._http_of = lru_cache(SERIES)(self._http.labels)
        self._http_seconds_of = lru_cache(SERIES)(self._http_seconds.labels)
        self._requests_of = lru_cache(SERIES)(self._requests.labels)
        self._refusals_of = lru_cache(SERIES)(self._refusals.labels)
        self._first = self._histogram("time_to_first_token_seconds", "Time to first token.", SECONDS, "model")
        self._gap = self._histogram(
            "inter_token_latency_seconds", "Mean time between the tokens of an answer.", TOKEN_GAP_SECONDS, "model"
        )
        self._total = self._histogram("e2e_request_latency_seconds", "From arrival to completion.", SECONDS, "model")
        self._queued = self._histogram("request_queue_time_seconds", "Time in the waiting queue.", SECONDS, "model")
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens per request.", TOKENS, "model")
        self._output = self._histogram("request_generation_tokens", "Generated tokens per request.", TOKENS, "model")
        self._ratings = self._counter("feedback", "Ratings of answers, by model.", "model", "rating")
        for name, rating in product((name for name, _ in models), RATINGS):
            self._ratings.labels(name, rating)
        for name, _ in models:
            for protocol, status in product(Protocol, WATCHED_ENDS):
                self._requests.labels(name, protocol.value, status)
        for window in ("minute", "hour"):
            self._refusals.labels("generation", window)
        self.registry.register(_Backends(models))
        self.registry.register(_Identities(models))
        self.registry.register(_Machine(machine))
        self.registry.register(_Build())
        self.registry.register(_SharedLimits(shared_limit_failures))
        self.registry.register(_ImageWorkers(image_restarts))
        self.registry.register(_Grammars(grammar_cache))
        self.registry.register(_StoredResponses(stored_responses))
        self.registry.register(_AnswerCache(answer_cache))
        ProcessCollector(registry=self.registry)

    def http(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count one response; route: the URL rule that matched, never the path."""
        route = route or UNMATCHED
        self._http_of(method if method in METHODS else "other", route, str(status)).inc()
        self._http_seconds_of(route).observe(seconds)

    def by_key(self, name: str, status: int) -> None:
        """Count one response to the holder of the key or token of this name."""
        if name not in self._keys:
            if len(self._keys) >= MAX_KEYS:
                name = OTHER_KEYS
            self._keys.add(name)
        self._key_requests.labels(name, str(status)).inc()

    def rated(self, model: str, rating: str) -> None:
        """Count a rating of an answer; rating: up or down."""
        self._ratings.labels(model, rating).inc()

    def credential_refused(self, reason: str) -> None:
        """Count a request whose key or token was refused; reason: one of REFUSALS."""
        self._credentials.labels(reason).inc()

    def watch_streams(self, size: Callable[[], tuple[int, int]]) -> None:
        """Export how many streams can be read again, and the bytes of their events."""
        self.registry.register(_ResumableStreams(size))

    def watch_batches(self, figures: Callable[[], tuple[int, int, int]]) -> None:
        """Export how many batches there are, how many there may be at once, and how many were refused."""
        self.registry.register(_Batches(figures))

    def watch_keys(self, size: Callable[[], int], failing: Callable[[], bool]) -> None:
        """Export how many client keys are known, and whether reading them fails."""
        self.registry.register(_ClientKeys(size, failing))

    def refused(self, budget: str, window: str) -> None:
        """Count a request refused by a rate limit."""
        self._refusals_of(budget, window).inc()

    def ended(self, model: str, protocol: Protocol | None, status: str) -> None:
        """Count a finished generation request; status: `success` or an error code."""
        self._requests_of(model, protocol.value if protocol is not None else UNMATCHED, status).inc()

    def completed(self, model: str, completion: Completion) -> None:
        """Observe times and lengths of a completed answer."""
        times = completion.timings
        self._total.labels(model).observe(times.total)
        self._queued.labels(model).observe(times.queued)
        self._prompt.labels(model).observe(completion.prompt_tokens)
        self._output.labels(model).observe(completion.output_tokens)
        if times.first_token is not None:
            self._first.labels(model).observe(times.first_token)
            if completion.output_tokens > 1:
                gap = (times.total - times.first_token) / (completion.output_tokens - 1)
                self._gap.labels(model).observe(gap)

    def text(self, *, named: bool) -> bytes:
        """Return all metrics in the Prometheus text format.

        named: with the series that name keys and persons, and as they are now; else up to SCRAPE_SECONDS old.
        """
        return generate_latest(self.registry) if named else self._without_names.get()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"avito_ai_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"avito_ai_{name}", text, labels, registry=self.registry, buckets=buckets)


class _Backends(Collector):
    """Reads each backend's figures at scrape time."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        rows = [(name, backend.stats(), backend.state()) for name, backend in self._models]
        stats = [(name, figures) for name, figures, _ in rows]
        for field, text in GAUGES.items():
            yield _gauge(field, text, [(name, float(getattr(figures, field))) for name, figures in stats])
        yield _gauge("kv_cache_usage_ratio", "Used share of the KV cache.", [(n, _cache_usage(s)) for n, s in stats])
        for field, text in COUNTS.items():
            family = CounterMetricFamily(f"avito_ai_{field}", text, labels=["model"])
            for name, figures in stats:
                family.add_metric([name], getattr(figures, f"{field}_total"))
            yield family
        yield _statuses([(name, state) for name, _, state in rows])


class _Identities(Collector):
    """Which checkpoint each model has loaded; a model without one is left out."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version", "checkpoint", "hash", "revision", "dtype", "fingerprint"]
        family = GaugeMetricFamily("avito_ai_model_info", "1, with the loaded checkpoint as its labels.", labels=labels)
        for name, backend in self._models:
            if (one := backend.info.identity) is not None:
                shown = [
                    name,
                    backend.info.version,
                    one.name,
                    one.digest,
                    one.revision or "",
                    one.dtype,
                    one.fingerprint,
                ]
                family.add_metric(shown, 1.0)
        yield family


class _Machine(Collector):
    """The host and its GPUs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def collect(self) -> Iterator[Metric]:
        yield from _host(self._machine.system())
        gpus = self._machine.gpus()
        yield _plain("gpu_available", "1 if a GPU is in use.", float(bool(gpus)))
        if gpus:
            yield from _gpus(gpus)


class _Build(Collector):
    """What runs: its version, and the folder that `deploy.sh production` keeps the release in."""

    def collect(self) -> Iterator[Metric]:
        labels = {"release": RELEASE, "version": VERSION}
        family = GaugeMetricFamily("avito_ai_build_info", "1, with what runs as its labels.", labels=list(labels))
        family.add_metric(list(labels.values()), 1.0)
        yield family


class _SharedLimits(Collector):
    def __init__(self, failures: Callable[[], int]) -> None:
        self._failures = failures

    def collect(self) -> Iterator[Metric]:
        text = "Failed calls to the shared storage of rate limits."
        yield CounterMetricFamily("avito_ai_rate_limit_storage_failures", text, value=self._failures())


class _ImageWorkers(Collector):
    def __init__(self, restarts: Callable[[], int]) -> None:
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        text = "Restarts of processes that decode images."
        yield CounterMetricFamily("avito_ai_image_worker_restarts", text, value=self._restarts())


class _Grammars(Collector):
    def __init__(self, size: Callable[[], tuple[int, int]]) -> None:
        self._size = size

    def collect(self) -> Iterator[Metric]:
        entries, size = self._size()
        yield _plain("grammar_cache_entries", "Cached compiled grammars.", entries)
        yield _plain("grammar_cache_bytes", "Estimated size of the cached compiled grammars.", size)


class _StoredResponses(Collector):
    def __init__(self, size: Callable[[], tuple[int, int]]) -> None:
        self._size = size

    def collect(self) -> Iterator[Metric]:
        responses, size = self._size()
        yield _plain("stored_responses", "Stored responses.", responses)
        yield _plain("stored_responses_bytes", "Size of the stored responses.", size)


class _ResumableStreams(Collector):
    def __init__(self, size: Callable[[], tuple[int, int]]) -> None:
        self._size = size

    def collect(self) -> Iterator[Metric]:
        streams, size = self._size()
        yield _plain("resumable_streams", "Streams of the page that can be read again.", streams)
        yield _plain("resumable_streams_bytes", "Size of their events.", size)


class _Batches(Collector):
    def __init__(self, figures: Callable[[], tuple[int, int, int]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        in_flight, most, refused = self._figures()
        yield _plain("batches_in_flight", "Batches in flight.", in_flight)
        yield _plain("max_batches", "Maximum number of batches in flight.", most)
        yield CounterMetricFamily("avito_ai_batches_refused", "Batches refused beyond the maximum.", value=refused)


class _ClientKeys(Collector):
    def __init__(self, size: Callable[[], int], failing: Callable[[], bool]) -> None:
        self._size, self._failing = size, failing

    def collect(self) -> Iterator[Metric]:
        yield _plain("client_keys", "Known client keys.", self._size())
        yield _plain("client_keys_stale", "1 while client keys cannot be read.", float(self._failing()))


class _AnswerCache(Collector):
    def __init__(self, figures: Callable[[], CacheFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        yield _plain("answer_cache_entries", "Requests whose answers are kept.", figures.entries)
        yield _plain("answer_cache_bytes", "Upper estimate of the size of the kept answers.", figures.size)
        hits, misses = "Requests answered from the answer cache.", "Requests whose answers might have been kept."
        yield CounterMetricFamily("avito_ai_answer_cache_hits", hits, value=figures.hits)
        yield CounterMetricFamily("avito_ai_answer_cache_misses", misses, value=figures.misses)


def _host(host: SystemFigures) -> Iterator[Metric]:
    yield _plain("system_cpu_ratio", "CPU utilization, 0 to 1.", host.cpu_percent / 100)
    yield _plain("system_memory_ratio", "Used share of memory.", host.memory_percent / 100)
    yield _plain("system_memory_available_bytes", "Available memory.", host.memory_available)
    yield _plain("system_disk_ratio", "Used share of the disk.", host.disk_percent / 100)


def _gpus(gpus: Sequence[GpuFigures]) -> Iterator[Metric]:
    def gauge(name: str, text: str, values: Iterable[float | None]) -> Metric:
        known = [(gpu.device, value) for gpu, value in zip(gpus, values, strict=True) if value is not None]
        return _gauge(name, text, known, label="gpu")

    yield gauge("gpu_memory_allocated_bytes", "Allocated GPU memory.", [gpu.allocated for gpu in gpus])
    yield gauge("gpu_memory_reserved_bytes", "GPU memory reserved by this process.", [gpu.reserved for gpu in gpus])
    yield gauge("gpu_memory_total_bytes", "Total GPU memory.", [gpu.total for gpu in gpus])
    yield gauge("gpu_busy_ratio", "GPU utilization, 0 to 1.", [gpu.busy for gpu in gpus])


def _statuses(states: Iterable[tuple[str, BackendState]]) -> Metric:
    family = GaugeMetricFamily("avito_ai_model_status", "1 for a model's current state.", labels=["model", "status"])
    for name, state in states:
        for status in Status:
            family.add_metric([name, status.value], float(state.status is status))
    return family


def _cache_usage(figures: BackendStats) -> float:
    return figures.kv_cache_tokens_used / (figures.kv_cache_tokens_capacity or 1)


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]], label: str = "model") -> Metric:
    family = GaugeMetricFamily(f"avito_ai_{name}", text, labels=[label])
    for labelled, value in values:
        family.add_metric([labelled], value)
    return family


def _plain(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"avito_ai_{name}", text, value=value)
