"""What the page says of the service at this moment: loading, trouble, demo models, no GPU, and who is busy."""

from __future__ import annotations

import math
from typing import Any

from edge.readiness import overall
from engine.types import BackendStats, Status
from routes.services import services

MEGABYTE = 1_000_000


def state_of_service() -> dict[str, Any]:
    """Return what `_state.html` shows: the worst state, loads with their progress, demos, and which models are busy."""
    models = services().models
    states = models.states()
    status = overall(states)
    ready = status is Status.READY
    return {
        "status": status.value,
        "loading": states if status is Status.LOADING else {},
        "demos": [backend.info.served_id for _, backend in models if backend.info.demo],
        "no_gpu": ready and services().metrics.machine.gpu_memory() is None,
        "busy": [busy for name, backend in models if ready and (busy := _busy(name, backend.stats()))],
        "megabyte": MEGABYTE,
    }


def _busy(name: str, figures: BackendStats) -> dict[str, Any] | None:
    """Return what to say of a model whose places are all taken; those on their way to a free place wait for nobody."""
    if not figures.num_requests_waiting or figures.num_requests_running < figures.max_num_seqs:
        return None
    return {
        "name": name.capitalize(),
        "waiting": figures.num_requests_waiting,
        "seconds": math.ceil(figures.estimated_wait_seconds),
    }
