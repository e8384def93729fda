"""The figures of generation requests since the last reset, shown by `GET /api/metrics`."""

from __future__ import annotations

import threading
from collections import Counter

from config import MILLION
from engine.types import model_of


class ApplicationFigures:
    """Counters of generation requests, without those refused by a limit. priced: whether tokens have prices."""

    def __init__(self, priced: bool = False) -> None:
        self.priced = priced
        self._lock = threading.Lock()  # guards the figures below, which change together
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero."""
        with self._lock:
            self._succeeded: Counter[str] = Counter()
            self._failed = 0
            self._seconds = 0.0
            self._tokens = 0
            self._cost = 0
            self._ratings: Counter[tuple[str, str]] = Counter()

    def spent(self, cost: int) -> None:
        """Count the cost of a request, in millionths of the currency."""
        with self._lock:
            self._cost += cost

    def succeeded(self, model: str, seconds: float, tokens: int) -> None:
        """Count an answer of `model`; seconds: total time, tokens: generated tokens."""
        with self._lock:
            self._succeeded[model] += 1
            self._seconds += seconds
            self._tokens += tokens

    def failed(self) -> None:
        """Count a failed generation request."""
        with self._lock:
            self._failed += 1

    def rated(self, model: str, rating: str) -> None:
        """Count a rating of an answer; rating: up or down."""
        with self._lock:
            self._ratings[model, rating] += 1

    def ratings_of(self, model: str) -> tuple[int, int]:
        """Return how many answers of one version of a model were rated up, and how many down."""
        with self._lock:
            return self._ratings[model, "up"], self._ratings[model, "down"]

    def answers_of(self, model: str) -> int:
        """Return how many answers of one version of a model succeeded."""
        with self._lock:
            return self._succeeded[model]

    def shown(self) -> dict[str, int | str]:
        """Return the figures in the form that dashboards read; averages are over successful requests."""
        with self._lock:
            successful = self._succeeded.total()
            total = successful + self._failed
            cost = {"total_cost": f"{self._cost // MILLION}.{self._cost % MILLION:06}"} if self.priced else {}
            return {
                "total_requests": total,
                "successful_requests": successful,
                "failed_requests": self._failed,
                "success_rate": f"{100 * successful / (total or 1):.2f}%",
                "avibe_requests": self._all_of("avibe"),
                "avision_requests": self._all_of("avision"),
                "avg_response_time": f"{self._seconds / (successful or 1):.3f}s",
                "total_tokens_generated": self._tokens,
                **cost,
            }

    def _all_of(self, model: str) -> int:
        """Return the answers of all versions of a model."""
        return sum(count for name, count in self._succeeded.items() if model_of(name) == model)
