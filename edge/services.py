"""The parts of the running application, as views find them: everything hangs on `current_app.extensions`."""

from __future__ import annotations

from typing import cast

from flask import Flask, current_app

from config import Settings
from edge.disconnect import ClientWatch
from edge.rate_limit import RateLimiter
from models import ModelSet
from telemetry.metrics import Metrics
from telemetry.tracing import Tracing


def settings(app: Flask | None = None) -> Settings:
    """Return the settings this application was made with."""
    return cast(Settings, (app or current_app).extensions["settings"])


def models(app: Flask | None = None) -> ModelSet:
    """Return the models."""
    return cast(ModelSet, (app or current_app).extensions["models"])


def metrics() -> Metrics:
    """Return the figures."""
    return cast(Metrics, current_app.extensions["metrics"])


def rate_limiter() -> RateLimiter:
    """Return the budgets."""
    return cast(RateLimiter, current_app.extensions["rate_limiter"])


def tracing() -> Tracing:
    """Return what makes the traces of requests."""
    return cast(Tracing, current_app.extensions["tracing"])


def disconnect() -> ClientWatch:
    """Return the watcher of clients."""
    return cast(ClientWatch, current_app.extensions["disconnect"])
