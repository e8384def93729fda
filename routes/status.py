"""The operator's page: the last hour of the service, open on this machine and after signing in with ADMIN_KEY."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from flask import Blueprint, jsonify, redirect, render_template, request, url_for
from flask import Response as FlaskResponse
from werkzeug.wrappers import Response

from edge import caller, operator_session
from edge.rate_limit import OverBudget
from edge.readiness import overall
from engine.types import BackendState
from routes.locale import LOCALES, visitors_locale
from routes.parsing import submitted_form
from routes.services import services
from telemetry.metrics.history import INTERVAL, SAMPLES, Sample
from telemetry.version import VERSION

status = Blueprint("status", __name__)

DIGITS = 4
HASH_DIGITS = 12  # of a checkpoint's hash, enough to tell those of one service apart
Values = list[float | None]


@status.get("/status")
def show() -> str:
    """Show the operator's page: the last hour at a glance."""
    locale = visitors_locale()
    return render_template(
        "status.html",
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        interval=round(INTERVAL),
        span=round(INTERVAL * SAMPLES),
        version=VERSION,
        signed_in=operator_session.is_signed_in(
            request, services().settings.security.admin_key, services().ended_sessions
        ),
        **_figures(),
    )


@status.get("/status/figures")
def figures() -> str:
    """Show the current figures, for an open page to refresh."""
    return render_template("_status_figures.html", t=visitors_locale().texts, **_figures())


@status.get("/status/samples")
def samples() -> FlaskResponse:
    """Return the samples after `after` (seconds since the epoch): one list of values per line of a plot."""
    taken = services().metrics.history.samples(request.args.get("after", -1.0, type=float))
    lines = [
        {"plot": plot, "key": key, "model": model, "values": [_rounded(value) for value in values]}
        for plot, key, model, values in _lines(taken)
    ]
    return jsonify(at=[round(sample.at, 1) for sample in taken], lines=lines)


@status.post("/status/sign-in")
def sign_in() -> Response | tuple[str, int] | tuple[str, int, dict[str, str]]:
    """Check the administrator's key and set a cookie for the session."""
    offered = submitted_form().fields.get("key", "")
    admin_key = services().settings.security.admin_key
    if admin_key is None or caller.is_local(request):
        return redirect(url_for("status.show"), 303)  # no key is needed there, or none is set
    try:
        fits = services().key_tries.fits(offered, admin_key, caller.budget_key(_client()))
    except OverBudget as refusal:
        headers = {"Retry-After": str(refusal.retry_after)}
        message = visitors_locale().sentence(refusal.message, "rate_limit_exceeded")
        return sign_in_page(message, refusal.retry_after), 429, headers
    if not fits:
        return sign_in_page(visitors_locale().texts["status"]["sign_in"]["wrong"]), 401
    response = redirect(url_for("status.show"), 303)
    secure = caller.came_over_https(request, services().settings.server.trusted_proxies)
    operator_session.sign_in(cast(FlaskResponse, response), admin_key, secure=secure)
    return response


@status.post("/status/sign-out")
def sign_out() -> Response:
    """End the session and delete its cookie."""
    response = cast(FlaskResponse, redirect(url_for("status.show"), 303))
    admin_key = services().settings.security.admin_key
    operator_session.sign_out(request, response, admin_key, services().ended_sessions)
    return response


def sign_in_page(problem: str = "", retry_after: int | None = None) -> str:
    """Return the form that asks for the key."""
    locale = visitors_locale()
    return render_template(
        "sign_in.html", t=locale.texts, lang=locale.code, languages=LOCALES, problem=problem, retry_after=retry_after
    )


def _client() -> str:
    return caller.client_address(request, services().settings.server.trusted_proxies)


def _figures() -> dict[str, Any]:
    """Return the tiles, and the table with the last value, the mean and the maximum of each line."""
    texts = visitors_locale().texts["status"]
    taken = services().metrics.history.samples()
    lines = list(_lines(taken))
    return {
        "status": overall(services().models.states()).value,
        "tiles": _tiles(taken, texts),
        "models": [_model(name, state) for name, state in services().models.states().items()],
        "rows": [_row(_label(plot, key, model, texts), values) for plot, key, model, values in lines],
    }


def _model(name: str, state: BackendState) -> dict[str, str]:
    """Return what the table of the models shows of one."""
    identity = services().models.get(name).info.identity
    return {
        "name": name,
        "status": state.status.value,
        "checkpoint": identity.name if identity else "–",
        "revision": identity.revision or "–" if identity else "–",
        "hash": identity.digest[:HASH_DIGITS] if identity else "–",
        "fingerprint": identity.fingerprint if identity else "–",
        "answers": _shown(services().metrics.application.answers_of(name)),
    }


def _tiles(taken: Sequence[Sample], texts: dict[str, Any]) -> dict[str, str]:
    last = taken[-1] if taken else None
    measured = [sample.first_token_p50 for sample in taken if sample.first_token_p50 is not None]
    return {
        "state": texts["states"][overall(services().models.states()).value],
        "uptime": _duration(services().metrics.uptime),
        "tokens": _shown(sum(last.tokens.values()) if last else 0),
        "running": _shown(sum(backend.stats().num_requests_running for _, backend in services().models)),
        "waiting": _shown(sum(backend.stats().num_requests_waiting for _, backend in services().models)),
        "first_token": _shown(measured[-1] if measured else None),
        "answers": _shown(sum(sample.answers for sample in taken)),
        "errors": _shown(sum(sum(sample.errors.values()) for sample in taken)),
    }


def _lines(taken: Sequence[Sample]) -> Iterator[tuple[str, str, str, Values]]:
    """Yield every line of every plot: plot, key, model or GPU ("" for all), values."""
    models = [name for name, _ in services().models]
    for name in models:
        yield "tokens", "tokens", name, [sample.tokens[name] for sample in taken]
    for name in models:
        yield "requests", "running", name, [sample.running[name] for sample in taken]
        yield "requests", "waiting", name, [sample.waiting[name] for sample in taken]
    yield "first_token", "p50", "", [sample.first_token_p50 for sample in taken]
    yield "first_token", "p95", "", [sample.first_token_p95 for sample in taken]
    gpus = sorted({gpu for sample in taken for gpu in sample.gpu_memory})
    for gpu in gpus:
        name = gpu if len(gpus) > 1 else ""
        yield "memory", "gpu_memory", name, [_percent(sample.gpu_memory.get(gpu)) for sample in taken]
        yield "memory", "gpu_busy", name, [_percent(sample.gpu_busy.get(gpu)) for sample in taken]
    for name in models:
        yield "memory", "cache", name, [_percent(sample.cache[name]) for sample in taken]
    for code in sorted({code for sample in taken for code in sample.errors}):
        yield "errors", code, "", [sample.errors.get(code, 0) for sample in taken]


def _label(plot: str, key: str, model: str, texts: dict[str, Any]) -> str:
    """Return `<plot>: <line>`; errors are named by their code, models by their name."""
    line = texts["series"].get(key, model or key).format(model=model)
    named = "" if model in line else f" {model}"
    return f"{texts['plots'][plot]}: {line}{named}"


def _row(label: str, values: Values) -> tuple[str, str, str, str]:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else None
    return label, _shown(known[-1] if known else None), _shown(mean), _shown(max(known, default=None))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    if 0 < abs(value) < 10 and value != int(value):
        return f"{value:.3g}".replace(".", visitors_locale().texts["marks"]["decimal"])
    return visitors_locale().number(value)


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
