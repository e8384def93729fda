"""The last hour of metrics, one sample every INTERVAL seconds, for the operator's page.

A ring of SAMPLES samples of bounded size, so memory does not grow with time or load. Within an interval, at most
FIRST_TOKENS times to the first token are kept. The recorder thread ends when its history is garbage-collected.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.backend import Models
from engine.types import BackendStats
from telemetry.metrics.machine import Machine

INTERVAL = 5.0  # seconds
SAMPLES = 720  # one hour
FIRST_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval. Rates are per second; times in seconds, None if nothing was measured; ratios 0 to 1.

    at: seconds since the epoch; tokens, running, waiting, cache: by model; gpu_memory, gpu_busy: by GPU; errors: failed
    requests by error code.
    """

    at: float
    tokens: dict[str, float]
    running: dict[str, int]
    waiting: dict[str, int]
    cache: dict[str, float]
    gpu_memory: dict[str, float]
    gpu_busy: dict[str, float | None]
    first_token_p50: float | None
    first_token_p95: float | None
    answers: int
    errors: dict[str, int]


class History:
    """Takes and holds the samples. Thread-safe."""

    def __init__(
        self,
        models: Models,
        machine: Machine,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._models, self._machine = models, machine
        self._clock, self._wall_clock = clock, wall_clock
        self._lock = threading.Lock()  # guards the fields below
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._first_tokens: deque[float] = deque(maxlen=FIRST_TOKENS)
        self._answers = 0
        self._errors: Counter[str] = Counter()
        self._taken_at = clock()
        self._generated = self._generated_tokens(self._stats())
        self._recorder: threading.Thread | None = None

    def answered(self, first_token: float | None) -> None:
        """Count an answer; first_token: its time to the first token in seconds."""
        with self._lock:
            self._answers += 1
            if first_token is not None:
                self._first_tokens.append(first_token)

    def failed(self, code: str) -> None:
        """Count a generation request that ended with this error code."""
        with self._lock:
            self._errors[code] += 1

    def samples(self, after: float = -math.inf) -> list[Sample]:
        """Return the samples taken after `after`, in seconds since the epoch, oldest first."""
        with self._lock:
            return [sample for sample in self._samples if sample.at > after]

    def take(self) -> None:
        """Take one sample of the time since the previous one."""
        stats, gpus = self._stats(), self._machine.gpus()
        generated = self._generated_tokens(stats)
        with self._lock:
            now = self._clock()
            seconds = max(now - self._taken_at, 1e-9)
            first = sorted(self._first_tokens)
            self._samples.append(
                Sample(
                    at=self._wall_clock(),
                    # A restarted engine counts from zero.
                    tokens={
                        name: max(0, count - self._generated.get(name, 0)) / seconds
                        for name, count in generated.items()
                    },
                    running={name: figures.num_requests_running for name, figures in stats.items()},
                    waiting={name: figures.num_requests_waiting for name, figures in stats.items()},
                    cache={
                        name: _share(f.kv_cache_tokens_used, f.kv_cache_tokens_capacity) for name, f in stats.items()
                    },
                    gpu_memory={gpu.device: _share(gpu.allocated, gpu.total) for gpu in gpus},
                    gpu_busy={gpu.device: gpu.busy for gpu in gpus},
                    first_token_p50=_quantile(first, 0.5),
                    first_token_p95=_quantile(first, 0.95),
                    answers=self._answers,
                    errors=dict(self._errors),
                )
            )
            self._taken_at, self._generated, self._answers = now, generated, 0
            self._first_tokens.clear()
            self._errors.clear()

    def record(self) -> None:
        """Start the recorder thread, unless it is running."""
        with self._lock:
            if self._recorder is None:
                arguments = (weakref.ref(self), threading.Event())
                self._recorder = threading.Thread(target=_record, args=arguments, name="history", daemon=True)
                self._recorder.start()

    def _stats(self) -> dict[str, BackendStats]:
        return {name: backend.stats() for name, backend in self._models}

    def _generated_tokens(self, stats: dict[str, BackendStats]) -> dict[str, int]:
        return {name: figures.generation_tokens_total for name, figures in stats.items()}


def _record(reference: weakref.ref[History], pause: threading.Event, interval: float = INTERVAL) -> None:
    while (history := reference()) is not None:
        history.take()
        del history
        pause.wait(interval)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of the values do not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
