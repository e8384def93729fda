"""Health, readiness and metrics. Probes read flags and never block, so they respond at once under any load.

Readiness is the worst state of the models: dead, stalled, draining, loading, ready. A full queue counts as ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from flask import Blueprint, Response, jsonify, request

from checks.everywhere import checks_of
from checks.finding import Finding, State, run, worst
from edge.bodies import (
    CheckedPart,
    DetailedHealth,
    Health,
    JsonFigures,
    Liveness,
    LoadProgress,
    ModelReadiness,
    Readiness,
    ResetAnswer,
    SystemHealth,
    UpstreamHealth,
    UpstreamModel,
    UpstreamServer,
)
from edge.checkpoint_identity import shown_identity
from edge.named_metrics import may_see_names
from edge.readiness import overall
from edge.request_state import request_state
from edge.services import services
from engine.errors import RETRY_AFTER
from engine.types import BackendState, Progress, ServerReport, Status, is_further
from models.model_set import ModelSet, Servers
from telemetry.metrics.machine import GIB, Machine, shown_gpu, shown_system
from telemetry.metrics.prometheus import CONTENT_TYPE
from telemetry.metrics.usage import shown_usage
from telemetry.version import VERSION

health = Blueprint("health", __name__)
metrics = Blueprint("metrics", __name__)

LATER = {Status.STALLED: 10, Status.DEAD: 10}  # seconds; RETRY_AFTER for the others
REASONS = {
    Status.LOADING: "The models are loading.",
    Status.DRAINING: "The service is stopping and finishes the admitted requests.",
    Status.STALLED: "The model is stalled.",
    Status.DEAD: "A model has failed.",
}


WORDS: Mapping[State, Literal["healthy", "degraded", "unhealthy"]] = {
    State.FAILED: "unhealthy",
    State.WARNING: "degraded",
}


@health.get("/health", endpoint="healthy_by_old_name")
@health.get("/api/health")
def healthy() -> Response:
    """Report that the process responds."""
    return jsonify(Health(status="healthy", uptime_seconds=int(services().metrics.uptime)))


@health.get("/ready", endpoint="ready_by_short_name")
@health.get("/health/ready", endpoint="ready_by_old_name")
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


@health.get("/health/live", endpoint="live_by_old_name")
@health.get("/api/health/live")
def live() -> tuple[Response, int]:
    """Report whether the process can recover by itself; 503 if it needs a restart."""
    lost = next((state for state in services().models.deciding_states().values() if state.restart_needed), None)
    if lost is None:
        return jsonify(Liveness(status="alive")), 200
    return jsonify(Liveness(status="restart_needed", reason=lost.reason or REASONS[Status.DEAD])), 503


@health.get("/health/system")
def system() -> Response:
    """Return the figures of the machine."""
    figures = services().metrics
    gpus = figures.machine.gpus()
    return jsonify(
        SystemHealth(
            status="healthy",
            timestamp=_now(),
            uptime_seconds=int(figures.uptime),
            system=shown_system(figures.machine.system()),
            gpu=shown_gpu(gpus[0] if gpus else None),
        )
    )


@health.get("/health/circuit-breakers", endpoint="upstreams_by_other_name")
@health.get("/api/health/upstreams")
def upstreams() -> Response:
    """Report the servers elsewhere that answer for models, with the state of each one's circuit breaker."""
    found = {
        name: UpstreamModel(
            kind=one.upstream.kind, role=one.upstream.role, servers=[_server(report) for report in one.reports()]
        )
        for name, one in services().models.upstreams.items()
    }
    states = [[server["state"] for server in one["servers"]] for one in found.values()]
    lost = any(all(state == "open" for state in one) for one in states)
    whole = all(state != "open" for one in states for state in one)  # half open, one takes the next request
    status: Literal["healthy", "degraded", "unhealthy"] = "unhealthy" if lost else "healthy" if whole else "degraded"
    return jsonify(UpstreamHealth(status=status, upstreams=found))


@health.get("/health/detailed")
def detailed() -> tuple[Response, int]:
    """Try everything that the service depends on, all at once; 503 if anything has failed."""
    settings, found = services().settings, services()
    findings = {"models": _models_found(found.models), "gpu": _gpu_found(found.metrics.machine)}
    findings["upstreams"] = _upstreams_found(found.models.upstreams)
    findings |= run(checks_of(settings))
    state = worst(findings.values())
    body = DetailedHealth(
        status=WORDS.get(state, "healthy"),
        version=VERSION,
        uptime_seconds=int(found.metrics.uptime),
        checks={name: CheckedPart(state=one.state.value, detail=one.detail) for name, one in findings.items()},
    )
    return jsonify(body), 503 if state is State.FAILED else 200


@metrics.get("/api/metrics")
def json_metrics() -> Response:
    """Return the figures in the form that dashboards read; times in UTC."""
    figures = services().metrics
    gpus = figures.machine.gpus()
    body = JsonFigures(
        timestamp=_now(),
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
    """Return the metrics in the Prometheus text format, with the names of keys for who may see them."""
    text = services().metrics.prometheus.text(named=may_see_names(request))
    return Response(text, content_type=CONTENT_TYPE)


def _now() -> str:
    """Return the time in UTC, in the form that dashboards read."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def _models_found(models: ModelSet) -> Finding:
    """Return the state of the models; a further version that answers nothing is a warning."""
    states = models.states()
    status, all_ready = overall(states), all(state.status is Status.READY for state in states.values())
    shown = ", ".join(f"{name} is {state.status.value}" for name, state in states.items())
    waits = status in (Status.READY, Status.LOADING, Status.DRAINING)
    return Finding(State.OK if all_ready else State.WARNING if waits else State.FAILED, f"{shown}.")


def _upstreams_found(upstreams: Mapping[str, Servers]) -> Finding:
    """Return whether each model that servers elsewhere answer for has one that takes requests."""
    servers = {name: [one.state for one in own.reports()] for name, own in upstreams.items()}
    taking = {name: sum(state != "open" for state in states) for name, states in servers.items()}
    if not servers:
        return Finding(State.OFF, "No server elsewhere answers for a model.")
    shown = ", ".join(f"{taking[name]} of {len(states)} servers for {name}" for name, states in servers.items())
    whole = all(taking[name] == len(states) for name, states in servers.items())
    state = State.OK if whole else State.WARNING if all(taking.values()) else State.FAILED
    return Finding(state, f"{shown} take requests.")


def _gpu_found(machine: Machine) -> Finding:
    gpus = machine.gpus()
    used = [f"{gpu.name}: {gpu.allocated / GIB:.1f} of {gpu.total / GIB:.1f} GiB allocated" for gpu in gpus]
    return Finding(State.OK, f"{'; '.join(used)}.") if used else Finding(State.OFF, "No model uses a GPU.")


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


def _server(report: ServerReport) -> UpstreamServer:
    shown = UpstreamServer(
        url=report.url,
        state=report.state,
        outstanding=report.outstanding,
        requests=report.requests,
        failures=report.failures,
        opened=report.opened,
    )
    if report.last_failure is not None:
        shown["last_failure"] = report.last_failure
    if report.seconds_since_failure is not None:
        shown["seconds_since_failure"] = round(report.seconds_since_failure, 3)
    if report.seconds_since_success is not None:
        shown["seconds_since_success"] = round(report.seconds_since_success, 3)
    return shown
