"""The parts of a running application. `create_app` puts one `Services` into `app.extensions`; `services()` finds it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, current_app

from config import LiveSettings, Settings
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
from edge.stream_writer import StreamWriter
from keys.refresh import begin_refreshing
from keys.registry import KeyRegistry
from keys.store import KeyStore
from keys.tokens import TokenVerifier
from models import ModelNames, ModelSet
from telemetry.access_lines import SparseLines
from telemetry.metrics import Metrics
from telemetry.tracing import Tracing
from usage.recorder import Recorder
from usage.spending import Spending

KEY = "services"


@dataclass(frozen=True)
class Services:
    """What the hooks around every route use.

    ended_sessions: those of the operator's page that were signed out; key_store, token_verifier: None where AUTH asks
    for no keys, or no tokens; key_registry: the keys in the database, whatever AUTH says; access_lines: of refusals.
    """

    live_settings: LiveSettings
    models: ModelSet
    model_names: ModelNames
    rate_limiter: RateLimiter
    authenticator: Authenticator
    client_sessions: ClientSessions
    key_registry: KeyRegistry
    key_store: KeyStore | None
    token_verifier: TokenVerifier | None
    key_tries: KeyTries
    ended_sessions: EndedSessions
    metrics: Metrics
    access_lines: SparseLines
    tracing: Tracing
    client_watch: ClientWatch
    stream_writer: StreamWriter
    forwarded_warning: ForwardedWarning
    body_budget: BodyBudget
    batch_capacity: BatchCapacity
    spending: Spending
    usage: Recorder
    gate: Gate

    @property
    def settings(self) -> Settings:
        """The settings as they are now: a secret in a file may have been renewed."""
        return self.live_settings.current

    def begin_serving(self) -> None:
        """Start what runs beside the requests; once the process is forked and is about to accept connections."""
        self.metrics.history.record()
        self.client_watch.start()
        self.stream_writer.start()
        self.rate_limiter.begin()
        self.usage.begin()
        self.spending.begin()
        if self.key_store is not None:
            begin_refreshing([self.key_store.refresh])
        files = [] if self.token_verifier is None else [self.token_verifier.refresh]
        if self.live_settings.watches:
            files.append(self.live_settings.refresh)
        if files:  # in a thread that waits for no database
            begin_refreshing(files, name="secrets")

    def end_serving(self) -> None:
        """End what must not be cut off; once the last request has been answered."""
        self.usage.end()


def services(app: Flask | None = None) -> Services:
    """Return the services of this application, inside a request those of the current one."""
    # Of the proxy itself, since each attribute that is read through it costs a microsecond.
    found: Services = (app or current_app._get_current_object()).extensions[KEY]  # type: ignore[attr-defined]
    return found
