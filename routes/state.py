"""What the page says of the service at this moment: loading, trouble, demo models, no GPU, and who is busy."""

from __future__ import annotations

import math
from typing import Any

from edge import parts
from edge.readiness import overall
from engine.types import BackendStats, Status

MEGABYTE = 1_000_000


def state_of_service() -> dict[str, Any]:
    """Return what `_state.html` shows: the worst state, loads with their progress, demos, places by model."""
    models = parts.models()
    states = models.states()
    status = overall(states)
    ready = status is Status.READY
    return {
        "status": status.value,
        "loading": states if status is Status.LOADING else {},
        "demos": [backend.info.served_id for _, backend in models if backend.info.demo],
        "no_gpu": ready and parts.metrics().machine.gpu_memory() is None,
        "places": [_places(name, backend.stats()) for name, backend in models],
        "megabyte": MEGABYTE,
    }


def _places(name: str, figures: BackendStats) -> dict[str, Any]:
    return {
        "model": name,
        "shown": name.capitalize(),
        "waiting": figures.num_requests_waiting,
        "seconds": math.ceil(figures.estimated_wait_seconds),
    }
