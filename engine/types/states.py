"""What a backend reports of itself. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """The state of a backend; it accepts requests only while READY."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STALLED = "stalled"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a load: its stage in a few words, bytes of weights, seconds since it began.

    stage: a `Message` where pages translate it. seconds: filled in by the set of models, which begins each load.
    """

    stage: str
    loaded_bytes: int = 0
    total_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BackendState:
    """What readiness and liveness report; restart_needed is True only if a restart of the process helps.

    progress: of the load, which may be over.
    """

    status: Status
    reason: str = ""
    progress: Progress | None = None
    restart_needed: bool = False


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The position of a request in the queue at this moment.

    ahead: how many requests start before it if no others arrive; eta_seconds: estimated time until it starts at the
    measured rate, 0.0 before one has been measured.
    """

    ahead: int
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Metrics of one model. The totals never decrease while the process lives."""

    num_requests_running: int = 0
    num_requests_waiting: int = 0
    max_num_seqs: int = 0
    max_waiting: int = 0
    kv_cache_tokens_used: int = 0
    kv_cache_tokens_capacity: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generation_tokens_total: int = 0
    nan_logits_total: int = 0
    preemptions_total: int = 0
    draft_tokens_total: int = 0
    accepted_draft_tokens_total: int = 0
    engine_restarts_total: int = 0
    steps_total: int = 0
    seconds_since_step: float = 0.0
    estimated_wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What is known of a server elsewhere that answers for a model.

    state: of its circuit breaker, `closed`, `open` or `half-open`; failures: failed attempts by their kind; opened: how
    often the breaker has opened. Times are in seconds, None for what has not happened.
    """

    url: str
    state: str
    outstanding: int
    requests: int
    failures: dict[str, int]
    last_failure: str | None
    seconds_since_failure: float | None
    seconds_since_success: float | None
    opened: int
