"""Exports spans to a collector over OTLP/HTTP, in batches, from a thread of its own.

A request only appends its spans to a bounded queue. An unreachable or slow collector costs spans and one log line; the
libraries' own lines about each attempt are not logged.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import PreparedRequest, Session
from requests.auth import AuthBase

from config import Settings
from telemetry.tracing.request_trace import begun
from telemetry.tracing.trace import RequestHeaders, Trace

log = logging.getLogger("avito_ai.tracing")

PATH = "/v1/traces"
QUEUE, BATCH = 4096, 512  # spans
DELAY = 2.0  # seconds between two batches
# The context that a client sends. A longer one is passed over, as W3C's Trace Context allows: it would be logged.
CONTEXT, LONGEST_CONTEXT = ("traceparent", "tracestate"), 512  # characters
SEND_TIMEOUT = 5.0  # seconds
STOP_PATIENCE = 3.0  # seconds


class Reporter(SpanExporter):
    """Passes batches on; logs one line when exports begin to fail and one when they succeed again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:  # an exception of the library must not end the exporting thread
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("The trace collector does not accept spans; they are dropped until it does.")
        if self._failing and not failed:
            log.info("The trace collector accepts spans again.")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class RenewedHeaders(AuthBase):
    """The operator's headers of each request to the collector, as they are now."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers.update(self.headers)
        return request


class CollectorTracing:
    """Tracing to an exporter.

    share: fraction of requests to trace where the client has not decided, 0 to 1; patience: seconds that a stop waits
    for the last batch; headers: those that may be renewed.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        service: str,
        share: float,
        patience: float = STOP_PATIENCE,
        headers: RenewedHeaders | None = None,
    ) -> None:
        self._headers = headers
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,  # it would wait 30 s for a collector that hangs
        )
        provider.add_span_processor(BatchSpanProcessor(Reporter(exporter), QUEUE, DELAY * 1000, BATCH))
        self._provider, self._patience = provider, patience
        self._tracer = provider.get_tracer("avito_ai")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, route: str, headers: RequestHeaders, request_id: str, began: float) -> Trace:
        carrier = {name: value for name in CONTEXT if (value := headers.get(name)) and len(value) <= LONGEST_CONTEXT}
        context = self._propagator.extract(carrier)
        return begun(self._tracer, context, method, route, request_id, began)

    def use_headers(self, headers: Mapping[str, str]) -> None:
        """Send these to the collector from now on, beside what names the body's form."""
        if self._headers is not None:
            self._headers.headers = headers

    def flush(self) -> None:
        """Export pending spans and wait until that is done."""
        self._provider.force_flush()

    def stop(self) -> None:
        stopping = threading.Thread(target=self._provider.shutdown, name="tracing-stop", daemon=True)
        stopping.start()
        stopping.join(self._patience)


def collector_tracing(settings: Settings, send_timeout: float = SEND_TIMEOUT) -> CollectorTracing:
    """Return tracing to the configured collector; the last spans are exported when the process exits.

    send_timeout: seconds for one batch, retries included.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    wanted = settings.tracing
    headers = RenewedHeaders(dict(wanted.otel_exporter_otlp_headers or ()))
    session = Session()
    if headers.headers and "@" not in str(wanted.otel_exporter_otlp_endpoint):  # else the address has what it needs
        session.auth = headers
    exporter = OTLPSpanExporter(
        endpoint=f"{str(wanted.otel_exporter_otlp_endpoint).rstrip('/')}{PATH}",
        headers=headers.headers,
        timeout=send_timeout,
        session=session,
    )
    tracing = CollectorTracing(exporter, wanted.otel_service_name, wanted.otel_traces_sampler_arg, headers=headers)
    atexit.register(tracing.stop)
    return tracing
