"""Health, readiness and metrics. Probes read flags and never block, so they respond at once under any load.

Readiness is the worst state of the models: dead, stalled, draining, loading, ready. A full queue counts as ready.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify

from edge.bodies import Health, JsonFigures, Liveness, LoadProgress, ModelReadiness, Readiness, ResetAnswer
from edge.checkpoint_identity import shown_identity
from edge.readiness import overall
from edge.request_state import request_state
from edge.services import services
from engine.errors import RETRY_AFTER
from engine.types import BackendState, Progress, Status, is_further
from telemetry.metrics.machine import GIB, shown_gpu, shown_system
from telemetry.metrics.prometheus import CONTENT_TYPE
from telemetry.metrics.usage import shown_usage

health = Blueprint("health", __name__)
metrics = Blueprint("metrics", __name__)

LATER = {Status.STALLED: 10, Status.DEAD: 10}  # seconds; RETRY_AFTER for the others
REASONS = {
    Status.LOADING: "The models are loading.",
    Status.DRAINING: "The service is stopping and finishes the admitted requests.",
    Status.STALLED: "The model is stalled.",
    Status.DEAD: "A model has failed.",
}


@health.get("/api/health")
def healthy() -> Response:
    """Report that the process responds."""
    return jsonify(Health(status="healthy", uptime_seconds=int(services().metrics.uptime)))


@health.get("/api/health/ready")
def ready() -> Response:
    """Report whether every model accepts requests, and if not, why."""
    states, deciding = services().models.states(), services().models.deciding_states()
    status, gpu_memory = overall(deciding), services().metrics.machine.gpu_memory()
    body = Readiness(
        status=status.value,
        cuda_available=gpu_memory is not None,
        gpu_memory_gb=f"{(gpu_memory or 0) / GIB:.2f}",
        models={name: _described(name, state) for name, state in states.items()},
    )
    if status is Status.READY:
        return jsonify(body)
    worst = next(state for state in deciding.values() if state.status is status)
    body["reason"] = worst.reason or REASONS[status]
    if worst.progress is not None:
        body["progress"] = _shown(worst.progress)
    response = jsonify(body)
    response.status_code = 503
    response.headers["Retry-After"] = str(LATER.get(status, RETRY_AFTER))
    return response


@health.get("/api/health/live")
def live() -> tuple[Response, int]:
    """Report whether the process can recover by itself; 503 if it needs a restart."""
    lost = next((state for state in services().models.deciding_states().values() if state.restart_needed), None)
    if lost is None:
        return jsonify(Liveness(status="alive")), 200
    return jsonify(Liveness(status="restart_needed", reason=lost.reason or REASONS[Status.DEAD])), 503


@metrics.get("/api/metrics")
def json_metrics() -> Response:
    """Return the figures in the form that dashboards read; times in UTC."""
    figures = services().metrics
    gpus = figures.machine.gpus()
    body = JsonFigures(
        timestamp=datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds"),
        uptime_seconds=int(figures.uptime),
        system=shown_system(figures.machine.system()),
        gpu=shown_gpu(gpus[0] if gpus else None),
        application=figures.application.shown(),
    )
    names = [name for name, _ in services().models]
    if any(map(is_further, names)):
        body["versions"] = {name: figures.application.answers_of(name) for name in names}
    if figures.usage is not None:
        body["usage"] = shown_usage(figures.usage())
    if len(gpus) > 1:
        body["gpus"] = {gpu.device: shown_gpu(gpu) for gpu in gpus}
    return jsonify(body)


@metrics.post("/api/metrics/reset")
def reset() -> Response:
    """Reset the application's JSON figures; Prometheus counters are never reset."""
    services().metrics.application.reset()
    message = "The application figures begin again from zero."
    return jsonify(ResetAnswer(success=True, message=message, request_id=request_state().request_id))


@metrics.get("/metrics")
def prometheus() -> Response:
    """Return all metrics in the Prometheus text format."""
    return Response(services().metrics.prometheus.text(), content_type=CONTENT_TYPE)


def _described(name: str, state: BackendState) -> ModelReadiness:
    info = services().models.get(name).info
    described = ModelReadiness(status=state.status.value, model=info.served_id, demo=info.demo)
    if info.version:
        described["version"] = info.version
    if info.identity is not None:
        described["checkpoint"] = shown_identity(info.identity)
        described["system_fingerprint"] = info.identity.fingerprint
    if state.reason:
        described["reason"] = state.reason
    if state.progress is not None:
        described["progress"] = _shown(state.progress)
    return described


def _shown(progress: Progress) -> LoadProgress:
    return LoadProgress(
        stage=progress.stage,
        loaded_bytes=progress.loaded_bytes,
        total_bytes=progress.total_bytes,
        seconds=progress.seconds,
    )
