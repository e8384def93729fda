"""The application: `create_app` wires the parts together.

`gunicorn -c gunicorn_config.py app_production:app` serves it, and loads the models from its configuration's hooks;
`python app_production.py` serves it for development. Importing this module builds nothing.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while
    from terminal import end_quietly

    end_quietly()

import logging
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from types import FrameType
from typing import Any

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from werkzeug.serving import BaseWSGIServer, make_server

import health
import middleware
from checks.backup import read_status
from config import FromNextStart, LiveSettings, Settings, allowable_names, live_settings, settings_or_exit
from database.connect import Database
from edge.authentication import Authenticator
from edge.batch_capacity import BatchCapacity
from edge.body_budget import BodyBudget
from edge.caller import ForwardedWarning
from edge.client_session import ClientSessions
from edge.disconnect import ClientWatch
from edge.gate import Gate
from edge.key_tries import KeyTries
from edge.operator_session import EndedSessions
from edge.rate_limit import RateLimiter
from edge.route_table import MIB, check_routes
from edge.services import KEY, services
from edge.shared_limits import SharedLimits
from edge.shared_windows import SharedWindows, redis_windows
from edge.stream_writer import StreamWriter
from edge.turns import elsewhere
from engine.errors import StartError
from keys.registry import KeyRegistry
from keys.store import KeyStore
from keys.tokens import TokenVerifier
from models import ModelNames, ModelSet, build_models
from routes import admin_audit, admin_keys, admin_usage, api, assets, docs, feedback, language, pages, sign_in, status
from routes.answer_cache import AnswerCache
from routes.anthropic.views import anthropic
from routes.chat.grammars import GrammarCache
from routes.description import describe
from routes.docs import render_page
from routes.locale import api_sentence, sentence_in
from routes.openai.requests import openai_models
from routes.openai.responses.store import ResponseStore
from routes.openai.responses.views import responses as responses_api
from routes.openai.views import openai
from routes.rated_answers import RatedAnswers
from routes.request_models import request_models
from routes.resumable import ResumableStreams
from routes.services import RouteServices
from routes.signed_conversations import SignedConversations
from routes.streams import streams as streams_again
from routes.usage import REPORTS_AT_ONCE
from routes.usage import usage as usage_api
from telemetry.access_lines import SparseLines
from telemetry.logs import set_up_logging
from telemetry.metrics import Metrics
from telemetry.metrics.machine import Machine, ThisMachine
from telemetry.tracing import Tracing, tracing_for
from telemetry.version import RELEASE, VERSION
from usage.limits import NAMES as LIMIT_NAMES
from usage.recorder import Recorder
from usage.spending import spending_of
from usage.store import Retention

log = logging.getLogger("avito_ai.serving")


class PlainJson(DefaultJSONProvider):
    """JSON with keys in their given order and without escapes for non-ASCII characters."""

    sort_keys = False
    ensure_ascii = False


def create_app(
    settings: Settings,
    models: ModelSet | None = None,
    machine: Machine | None = None,
    tracing: Tracing | None = None,
) -> Flask:
    """Return the application; its models are not loaded yet. Raises StartError and RouteTableError.

    Secrets in files are read again: a process that Gunicorn makes anew is given the settings of its master's start.
    """
    live = live_settings(settings)
    live.refresh()
    settings = live.current
    app = Flask(__name__, static_folder=None)
    app.json = PlainJson(app)
    app.url_map.merge_slashes = False  # its redirects are absolute, with the Host that the client chose
    app.url_map.strict_slashes = False  # one at the end changes nothing, and needs no redirect, which loses a body
    app.extensions[KEY] = wired = _services(app, live, models, machine, tracing)
    _watch(wired)
    middleware.install(app, settings, middleware.Failures(pages.failure_page, api_sentence))
    served = (health.health, health.metrics, api.api, feedback.feedback, usage_api)
    protocols = (openai, responses_api, anthropic, docs.docs)
    operators = (status.status, admin_keys.admin_keys, admin_usage.admin_usage, admin_audit.admin_audit)
    visited = (pages.pages, language.language, streams_again, sign_in.sign_in, assets.assets)
    for blueprint in (*served, *protocols, *operators, *visited):
        app.register_blueprint(blueprint)
    check_routes(app)
    for name, uses in _renewed(wired).items():
        for use in uses:
            wired.live_settings.on_change(name, use)
    return app


def _services(
    app: Flask, live: LiveSettings, models: ModelSet | None, machine: Machine | None, tracing: Tracing | None
) -> RouteServices:
    """Make the parts that requests share, with what each needs of the others. Raises StartError."""
    settings = live.current
    data, server = settings.data, settings.server
    database = Database(data.database_url)
    shared, registry = _shared_windows(settings), KeyRegistry(database, models=allowable_names(settings.model))
    limiter = RateLimiter(settings.limits.rate_limit_per_minute, settings.limits.rate_limit_per_hour, shared)
    key_store, tokens = _credentials(settings, registry)
    models = build_models(settings) if models is None else models
    grammars, answers = GrammarCache(models.grammar_trials), AnswerCache(server.answer_cache_mib * MIB)
    responses = ResponseStore(server.stored_responses_mib * MIB)
    usage = Recorder(database.engine, data.state_dir, Retention(data.usage_days, data.usage_hour_days, data.audit_days))
    everywhere = None if shared is None else SharedLimits(shared, settings.engine.request_timeout)
    spending = spending_of(settings, database.engine, lambda: usage.journals, everywhere, elsewhere)
    metrics = Metrics(
        models,
        machine or ThisMachine(),
        lambda: limiter.shared_failures,
        lambda: models.image_decoder.restarts,
        grammars.size,
        responses.size,
        answers.figures,
    )
    sessions = ClientSessions(key_store, settings.security.admin_key)
    authenticator = Authenticator(
        key_store, tokens, sessions.credential_of, refused=metrics.prometheus.credential_refused
    )
    access_lines = SparseLines()
    batch_capacity = BatchCapacity(settings.engine.max_batches)
    api_description = cache(partial(describe, app))
    return RouteServices(
        live_settings=live,
        models=models,
        database=database,
        rated_answers=RatedAnswers(),
        model_names=ModelNames.of(settings),
        rate_limiter=limiter,
        authenticator=authenticator,
        client_sessions=sessions,
        key_registry=registry,
        key_store=key_store,
        token_verifier=tokens,
        key_tries=KeyTries(),
        ended_sessions=EndedSessions(),
        metrics=metrics,
        access_lines=access_lines,
        tracing=tracing or tracing_for(settings),
        client_watch=ClientWatch(),
        stream_writer=StreamWriter(),
        forwarded_warning=ForwardedWarning(server.trusted_proxies),
        body_budget=BodyBudget(server.max_bodies_mib * MIB, server.max_bodies_mib * MIB // 2),
        spending=spending,
        usage=usage,
        batch_capacity=batch_capacity,
        gate=Gate(
            settings,
            models,
            limiter,
            metrics,
            sentence_in,
            authenticator,
            spending.budgets,
            access_lines,
            batch_capacity,
        ),
        request_models=request_models(settings),
        openai_models=openai_models(),
        grammars=grammars,
        responses=responses,
        conversations=SignedConversations(settings.security.admin_key),
        answers=answers,
        streams=ResumableStreams(),
        api_description=api_description,
        api_description_json=cache(lambda: app.json.dumps(api_description(), separators=(",", ":"))),
        docs_page=cache(render_page),
        report_places=threading.BoundedSemaphore(REPORTS_AT_ONCE),
    )


def _credentials(settings: Settings, registry: KeyRegistry) -> tuple[KeyStore | None, TokenVerifier | None]:
    """Return what AUTH asks for: the known keys, and what verifies tokens. Raises StartError."""
    access = settings.access
    key_store = KeyStore(registry, access.api_keys_file) if "keys" in access.auth else None
    tokens = TokenVerifier(settings) if "jwt" in access.auth else None
    for one in (key_store, tokens):
        if one is not None:
            one.load()
    return key_store, tokens


def _shared_windows(settings: Settings) -> SharedWindows | None:
    """Return what copies of the service share in Redis, None where each counts by itself."""
    address = settings.limits.rate_limit_storage
    return None if address == "memory" else SharedWindows(redis_windows(address))


def _watch(wired: RouteServices) -> None:
    """Let the metrics tell what the other parts count."""
    metrics, key_store, spending = wired.metrics, wired.key_store, wired.spending
    watched = [one for one in (key_store, wired.token_verifier) if one is not None]
    metrics.prometheus.watch_keys(
        lambda: 0 if key_store is None else len(key_store), lambda: any(one.failing for one in watched)
    )
    totals, warnings = spending.budgets.totals, spending.warnings
    metrics.application.priced = bool(spending.budgets.prices)
    metrics.spending.watch(
        LIMIT_NAMES, warnings.shares, warnings.states, lambda: totals.failing, spending.webhook_failures
    )
    metrics.watch_usage(wired.usage.figures)
    metrics.watch_upstreams(wired.models.server_reports)
    metrics.prometheus.watch_streams(wired.streams.size)
    metrics.prometheus.watch_batches(wired.batch_capacity.figures)
    metrics.watch_backup(partial(read_status, wired.live_settings.current.data.backup_status))


def _renewed(wired: RouteServices) -> dict[str, tuple[Callable[[Any], None], ...]]:
    """Return who uses the new value of each secret that may change while the service runs."""
    tokens, webhook, upstreams = wired.token_verifier, wired.spending.webhook, wired.models.upstreams
    renewed: dict[str, tuple[Callable[[Any], None], ...]] = {
        "ADMIN_KEY": (wired.client_sessions.use_admin_key, wired.conversations.use_admin_key),
        "JWT_SECRET_KEY": () if tokens is None else (tokens.use_secret,),
        "DATABASE_URL": (wired.database.use_url, *_read_anew(wired.key_store)),
        "RATE_LIMIT_STORAGE": (partial(_use_storage, wired.rate_limiter),),
        "BUDGET_WEBHOOK_URL": () if webhook is None else (webhook.use_url,),
        "OTEL_EXPORTER_OTLP_HEADERS": (lambda headers: wired.tracing.use_headers(dict(headers)),),
    }
    for name, prefix in {"avibe": "VIBE", "avision": "VISION"}.items():
        if name in upstreams:
            renewed[f"{prefix}_UPSTREAM_KEY"] = (upstreams[name].use_key,)
    return renewed | {f"key_file of {name}": (one.use_key,) for name, one in upstreams.items()}


def _use_storage(limiter: RateLimiter, address: str) -> None:
    """Count in another Redis; between that and the memory only a start changes."""
    if address == "memory" or not limiter.is_shared:
        raise FromNextStart
    limiter.use_shared(redis_windows(address))


def _read_anew(key_store: KeyStore | None) -> tuple[Callable[[Any], None], ...]:
    return () if key_store is None else (lambda _: key_store.read_anew(),)


def __getattr__(name: str) -> Any:
    """Build `app` on first access, from the operator's settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = create_app(settings_or_exit())
    return app


def main() -> int:
    """Serve for development until Ctrl+C, and load the models meanwhile; return the process's exit status."""
    settings = settings_or_exit()
    try:
        set_up_logging(settings)
        log.info("Avito AI API %s, release %s, is starting.", VERSION, RELEASE)
        app = create_app(settings)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    server = make_server(settings.server.host, settings.server.port, app, threaded=True)
    services(app).begin_serving()
    try:
        return serve(server, services(app).models, settings.server.drain_seconds)
    finally:
        services(app).end_serving()


def serve(server: BaseWSGIServer, models: ModelSet, drain_seconds: float) -> int:
    """Serve until SIGINT, SIGTERM or a failed load, finish the admitted requests, and return the exit status."""
    failures: list[StartError] = []

    def end_with(error: StartError) -> None:
        failures.append(error)
        server.shutdown()

    def end(signum: int, frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever(), which runs in this thread, so another thread calls it.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    anywhere = ("0.0.0.0", "::")  # nosec B104 # compared with, not bound
    name = "localhost" if server.host in anywhere else server.host
    log.info("Serving on http://%s:%d (Ctrl+C stops)", name, server.port)
    models.start_in_background(end_with)
    server.serve_forever()
    log.info("Stopping: finishing the requests in flight.")
    models.stop(0 if failures else drain_seconds)
    server.server_close()
    for error in failures:
        print(error, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
