"""The upper limit of what the service and its helper processes take of the host's memory, by purpose.

The sum is a promise, whatever clients send: every line is a limit that the code enforces, or an allowance beside it. It
is logged at the start as one line of JSON; `deploy.memory_limits` prints it, and the limits for systemd and Kubernetes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from config import Settings
from engine.types import EngineConfig, ModelSpec

log = logging.getLogger("avito_ai.loading")

MIB = 2**20
IDLE_CONNECTIONS = 1024  # beyond one for each thread
# The interpreter, the libraries and what they allocate while they work; with CUDA also its context.
BASE_BYTES = {"cpu": 1024 * MIB, "cuda": 4096 * MIB}
THREAD_BYTES = MIB  # of a stack, and of the allocator's arena behind it, as far as they are touched
CONNECTION_BYTES = (64 + 256) * 1024  # a head, and what was read behind a request
# A body as bytes, as text of two bytes a character, and as what was decoded from it; in memory also where /tmp is.
BODY_COPIES = 4
LIMIT_BYTES = 128 * MIB  # the windows of the rate limits, see `edge.local_windows`
RECORD_BYTES = 64 * MIB  # metrics, an hour of samples, queued traces, ended sessions
STREAM_BYTES = 32 * MIB  # the streams of the page that can be read again, see `routes.resumable`
HEADROOM = 1.1  # of limits that the kernel enforces, over the plan

Budgets = dict[str, tuple[str, Any]]  # the device and the MemoryBudget of each model


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of the host's memory by purpose. ready: those that are taken before the first request."""

    lines: dict[str, int]
    ready: int

    @property
    def total(self) -> int:
        """The most that the service takes."""
        return sum(self.lines.values())

    def as_json(self) -> str:
        """Return the plan as one line of JSON, sizes in bytes."""
        return json.dumps({"total": self.total, "ready": self.ready, **self.lines})

    def as_systemd(self) -> str:
        """Return a drop-in of the unit. During a reload two copies of the service are in its control group."""
        return f"[Service]\nMemoryHigh={2 * self.total}\nMemoryMax={round(2 * HEADROOM * self.total)}\n"

    def as_kubernetes(self) -> str:
        """Return the memory part of a container's resources, in MiB."""
        limit = round(HEADROOM * self.total) // MIB + 1
        return f"resources:\n  requests:\n    memory: {self.ready // MIB + 1}Mi\n  limits:\n    memory: {limit}Mi\n"


def memory_plan(settings: Settings, models: Iterable[tuple[ModelSpec, EngineConfig]]) -> MemoryPlan:
    """Return the plan, from the settings and the files of the checkpoints. Raises StartError if these are invalid."""
    return plan_of(settings, budgets_of(models))


def budgets_of(models: Iterable[tuple[ModelSpec, EngineConfig]]) -> Budgets:
    """Return the budgets, from the files of the checkpoints. Raises StartError if these are invalid."""
    models = list(models)
    if not models:
        return {}  # servers elsewhere answer, and torch is not loaded
    budget = import_module("engine.loading.memory_budget")
    return {spec.name: (spec.device, budget.estimate_budget(spec, config)) for spec, config in models}


def plan_of(settings: Settings, budgets: Budgets) -> MemoryPlan:
    """Return the plan of models with these budgets."""
    models = {name: one.total for name, (device, one) in budgets.items() if device == "cpu"}
    ready = _ready(settings, budgets) | models
    return MemoryPlan(ready | _later(settings, budgets), sum(ready.values()))


def bytes_beside(settings: Settings, budgets: Budgets) -> int:
    """Return what the service takes of the host's memory beside the models that run there."""
    return sum((_ready(settings, budgets) | _later(settings, budgets)).values())


def _ready(settings: Settings, budgets: Budgets) -> dict[str, int]:
    """Return what is taken before the first request, without the models on the CPU."""
    threads = settings.server.threads
    on_gpus = [one for device, one in budgets.values() if device != "cpu"]
    lines = {"base": BASE_BYTES["cuda" if on_gpus else "cpu"], "threads": threads * THREAD_BYTES}
    if on_gpus:  # one model passes through the host's memory at a time
        lines["loading"] = max(one.weights for one in on_gpus)
    return lines


def _later(settings: Settings, budgets: Budgets) -> dict[str, int]:
    """Return what requests take."""
    trials = import_module("engine.text.grammar_trials")
    return {
        "connections": (settings.server.threads + IDLE_CONNECTIONS) * CONNECTION_BYTES,
        "bodies": settings.server.max_bodies_mib * MIB * BODY_COPIES,
        "stored_responses": settings.server.stored_responses_mib * MIB,
        "answer_cache": settings.server.answer_cache_mib * MIB,
        "resumable_streams": STREAM_BYTES,
        "images": sum(one.images for _, one in budgets.values()),
        "image_decoders": max((one.decoders for _, one in budgets.values()), default=0),  # both models share them
        "grammars": len(budgets) * int(import_module("engine.text.grammar").CACHED_BYTES),
        "grammar_trials": trials.PROCESSES * trials.MEMORY_BYTES,
        "answer_schemas": _answer_schemas() if settings.model.upstreams else 0,
        "rate_limits": LIMIT_BYTES,
        "records": RECORD_BYTES,
    }


def _answer_schemas() -> int:
    """Return what the processes take that hold answers of servers elsewhere to their schemas."""
    process = import_module("upstream.schema_process")
    return int(import_module("upstream.answer_schema").PROCESSES * process.MEMORY_BYTES)


def log_plan(plan: MemoryPlan) -> None:
    """Log the plan as one line, for people and programs."""
    log.info("memory plan: %s", plan.as_json())
