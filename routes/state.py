"""The current state of the service as the page shows it: loading, failures, demo models, no GPU, busy models."""

from __future__ import annotations

import math
from typing import Any

from flask import request

from edge.readiness import overall
from engine.types import BackendStats, Status
from routes.services import services

MIB = 2**20
CLOSED = "avito_ai_notice_closed"  # the cookie of who has closed the notice of the demo models


def state_of_service() -> dict[str, Any]:
    """Return what `_state.html` shows: the worst state, loads with their progress, demos and busy models."""
    models = services().models
    states = models.states()
    status = overall(models.deciding_states())
    ready = status is Status.READY
    return {
        "status": status.value,
        "loading": states if status is Status.LOADING else {},
        "demos": [backend.info.served_id for _, backend in models if backend.info.demo],
        "no_gpu": ready and services().metrics.machine.gpu_memory() is None,
        "busy": [busy for name, backend in models if ready and (busy := _busy(name, backend.stats()))],
        "mib": MIB,
        "closed": CLOSED in request.cookies,
        "closed_cookie": f"{CLOSED}=1",
    }


def _busy(name: str, figures: BackendStats) -> dict[str, Any] | None:
    """Return the queue of a model at capacity, None for any other; requests about to start are no queue."""
    if not figures.num_requests_waiting or figures.num_requests_running < figures.max_num_seqs:
        return None
    return {
        "name": name.capitalize(),
        "waiting": figures.num_requests_waiting,
        "seconds": math.ceil(figures.estimated_wait_seconds),
    }
