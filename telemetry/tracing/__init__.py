"""Traces of generation requests for an OpenTelemetry collector; off unless the settings name one.

`tracing_for` gives what the application asks for a `Trace` of each request. While tracing is off, or a request is not
sampled, that trace is one that does nothing, and OpenTelemetry is never imported.
"""

from __future__ import annotations

from typing import Protocol

from config import Settings
from telemetry.tracing.trace import RequestHeaders, Trace

__all__ = ["NoTracing", "RequestHeaders", "Trace", "Tracing", "tracing_for"]


class Tracing(Protocol):
    """Makes the trace of each request, and sends what is done."""

    def begin(self, method: str, route: str, headers: RequestHeaders, request_id: str, began: float) -> Trace:
        """Return the trace of a request that arrived at `began`, on the monotonic clock in seconds."""

    def stop(self) -> None:
        """Send what is still here, for a moment; nothing is sent afterwards."""


class NoTracing:
    """Tracing that is switched off."""

    _nothing = Trace()

    def begin(self, method: str, route: str, headers: RequestHeaders, request_id: str, began: float) -> Trace:
        return self._nothing

    def stop(self) -> None:
        """There is nothing to send."""


def tracing_for(settings: Settings) -> Tracing:
    """Return the tracing that the settings ask for."""
    if settings.tracing.otel_exporter_otlp_endpoint is None:
        return NoTracing()
    from telemetry.tracing.collector import collector_tracing

    return collector_tracing(settings)
