"""The application with traces kept in memory."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app_production import create_app
from telemetry.tracing.collector import CollectorTracing


class Traced:
    """The recorded spans, by name."""

    def __init__(self, share=1.0):
        self.exporter = InMemorySpanExporter()
        self.tracing = CollectorTracing(self.exporter, "avito-ai", share)

    def spans(self):
        self.tracing.flush()
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, name):
        return [span for span in self.spans() if span.name == name]

    def only(self, name):
        """Return the only span of that name."""
        (span,) = self.named(name)
        return span


@pytest.fixture
def traced():
    """Traces of all requests, kept in memory."""
    traced = Traced()
    yield traced
    traced.tracing.stop()


@pytest.fixture
def app(settings, models, machine, traced):
    """The application over the scripted models, traced."""
    return create_app(settings, models, machine, traced.tracing)
