"""Traces of generation requests for an OpenTelemetry collector; off unless the settings name one.

`tracing_for` returns the factory of each request's `Trace`. Traces of requests that are not sampled do nothing. While
tracing is off, all of them do nothing and OpenTelemetry is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from config import Settings
from telemetry.tracing.trace import RequestHeaders, Trace

__all__ = ["NoTracing", "RequestHeaders", "Trace", "Tracing", "tracing_for"]


class Tracing(Protocol):
    """Creates the trace of each request and exports finished ones."""

    def begin(self, method: str, route: str, headers: RequestHeaders, request_id: str, began: float) -> Trace:
        """Return the trace of a request that arrived at `began`, in seconds of the monotonic clock."""

    def use_headers(self, headers: Mapping[str, str]) -> None:
        """Send these to the collector from now on."""

    def stop(self) -> None:
        """Export pending spans, within a bounded time; nothing is exported afterwards."""


class NoTracing:
    """Disabled tracing."""

    _nothing = Trace()

    def begin(self, method: str, route: str, headers: RequestHeaders, request_id: str, began: float) -> Trace:
        return self._nothing

    def use_headers(self, headers: Mapping[str, str]) -> None:
        """Nothing to send."""

    def stop(self) -> None:
        """Nothing to export."""


def tracing_for(settings: Settings) -> Tracing:
    """Return the tracing configured by the settings."""
    if settings.tracing.otel_exporter_otlp_endpoint is None:
        return NoTracing()
    from telemetry.tracing.collector import collector_tracing

    return collector_tracing(settings)
