"""Exporting to a collector that works, is down or hangs; and its settings."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from app_production import create_app
from config import SettingsError, load_settings
from edge.services import services
from settings.groups import TracingSettings
from telemetry.tracing import collector
from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, free_port, until
from tests.telemetry.tracing.otlp_sink import attributes, otlp_sink

ROOT = Path(__file__).parents[3]
GENERATE = "/api/v1/text/generate"
NO_LIMITS = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}


class Unreliable(SpanExporter):
    """Fails on demand, by its result or an exception."""

    def __init__(self):
        self.results = []

    def export(self, spans):
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def shutdown(self):
        pass


@pytest.fixture
def sink():
    with otlp_sink() as sink:
        yield sink


def application(models, machine, **tracing):
    settings = load_settings(NO_LIMITS | tracing, None)
    app = create_app(settings, models, machine)
    return app.test_client(), services(app).tracing


def ask(client):
    return client.post(GENERATE, json={"prompt": "Hello", "max_tokens": 3}).status_code


def test_spans_reach_a_collector_over_http(models, machine, sink):
    """A collector gets the spans as protobuf, with the service's name and the configured headers."""
    client, tracing = application(
        models,
        machine,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{sink.address}/",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20word,x-tenant=7",
        OTEL_SERVICE_NAME="ours",
    )
    assert ask(client) == 200
    tracing.stop()
    spans = sink.spans(5)
    assert set(spans) == {"chat avibe", "prepare", "queue", "prefill", "decode"}
    ((resource, span),) = spans["chat avibe"]
    assert attributes(resource)["service.name"] == "ours"
    assert attributes(span)["gen_ai.usage.output_tokens"] == 5
    assert sink.paths == ["/v1/traces"]
    assert (sink.headers[0]["authorization"], sink.headers[0]["x-tenant"]) == ("Bearer word", "7")


def test_renewed_headers_are_sent_from_then_on(models, machine, sink):
    """A collector's key changes while the service runs."""
    client, tracing = application(
        models,
        machine,
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.address,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20first",
    )
    for word in ("first", "second"):
        tracing.use_headers({"authorization": f"Bearer {word}"})
        assert ask(client) == 200
        tracing.flush()
        assert sink.headers[-1]["authorization"] == f"Bearer {word}"
    tracing.stop()


def test_a_password_in_the_address_is_sent(models, machine, sink):
    """Beside headers that say something else."""
    address = sink.address.replace("//", "//me:word@")  # pragma: allowlist secret
    client, tracing = application(
        models, machine, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=7"
    )
    assert ask(client) == 200
    tracing.stop()
    assert (sink.headers[0]["Authorization"], sink.headers[0]["x-tenant"]) == ("Basic bWU6d29yZA==", "7")


def test_a_collector_that_is_away_costs_one_log_line(settings, models, machine, caplog):
    """Requests succeed, traces are dropped, and one line is logged instead of the library's."""
    settings = replace(settings, tracing=TracingSettings(f"http://127.0.0.1:{free_port()}"))
    tracing = collector.collector_tracing(settings, send_timeout=0.2)
    client = create_app(settings, models, machine, tracing).test_client()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert ask(client) == 200
            tracing.flush()
    tracing.stop()
    foreign = [record for record in caplog.records if not record.name.startswith("avito_ai.")]
    lines = [record.message for record in caplog.records if record.name == "avito_ai.tracing"]
    assert lines == ["The trace collector does not accept spans; they are dropped until it does."]
    assert foreign == []


def test_a_collector_that_refuses_costs_one_log_line_and_its_return_another(caplog):
    """For any kind and number of failures; an exception does not end the thread."""
    unreliable = Unreliable()
    reporter = collector.Reporter(unreliable)
    good, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    unreliable.results = [good, bad, ValueError("of a library"), bad, good, good]
    with caplog.at_level(logging.INFO):
        results = [reporter.export([]) for _ in range(6)]
    assert results == [good, bad, bad, bad, good, good]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_collector_that_hangs_delays_neither_a_request_nor_the_end(settings, models, machine, sink):
    """While the exporter waits, requests are not delayed, and a stop waits no longer than its limit."""
    sink.hold = threading.Event()
    exporter = OTLPSpanExporter(endpoint=sink.address, timeout=10 * PATIENCE)
    tracing = collector.CollectorTracing(exporter, "avito-ai", 1.0, patience=0.2)
    client = create_app(settings, models, machine, tracing).test_client()
    assert ask(client) == 200
    sender = threading.Thread(target=tracing.flush, daemon=True)
    sender.start()
    assert [ask(client) for _ in range(20)] == [200] * 20
    before = set(threading.enumerate())
    tracing.stop()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert "tracing-stop" in left, "the stop waited as long as the libraries do"
    assert sender.is_alive(), "the stop did not wait for the collector"
    sink.hold.set()
    sender.join(PATIENCE)
    assert not sender.is_alive()


def test_more_spans_than_the_queue_holds_are_dropped(models, machine, sink):
    """The queue is bounded: excess spans are dropped, and no request waits or fails."""
    sink.hold = threading.Event()
    client, tracing = application(models, machine, OTEL_EXPORTER_OTLP_ENDPOINT=sink.address)
    for number in range(collector.QUEUE + 2 * collector.BATCH):
        trace = tracing.begin("POST", GENERATE, {}, str(number), time.monotonic())
        trace.responded(200, False)
    assert ask(client) == 200
    sink.hold.set()
    tracing.stop()
    sent = {attributes(span)["avito_ai.request_id"] for _, span in sink.spans(1)["chat"]}
    assert 0 < len(sent) < collector.QUEUE + 2 * collector.BATCH


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "http://a b", "http://c:99999"])
def test_an_endpoint_that_is_none_stops_the_start(endpoint):
    """An invalid URL is an error at the start."""
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT="):
        load_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, None)


@pytest.mark.parametrize("headers", ["authorization", "a b=c", "=c", "a=%0A", ","])
def test_headers_that_are_none_stop_the_start_and_are_not_shown(headers):
    """An invalid value may be a secret too."""
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_HEADERS=") as raised:
        load_settings({"OTEL_EXPORTER_OTLP_HEADERS": headers}, None)
    assert f"'{headers}'" not in str(raised.value)
    shown = repr(load_settings({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20word"}, None).tracing)
    assert "word" not in shown


def test_a_service_name_is_a_word():
    """Names with spaces are refused."""
    with pytest.raises(SettingsError, match="OTEL_SERVICE_NAME="):
        load_settings({"OTEL_SERVICE_NAME": "our service"}, None)


@pytest.mark.slow
def test_off_imports_nothing():
    """Without a collector OpenTelemetry is not imported."""
    script = (
        "import sys\n"
        "from app_production import create_app\n"
        "from config import load_settings\n"
        "from tests.fakes import scripted_models\n"
        "app = create_app(load_settings({}, None), scripted_models())\n"
        f"assert app.test_client().post({GENERATE!r}, json={{'prompt': 'x'}}).status_code == 200\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'opentelemetry', 'requests', 'google'}))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    assert shown.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_worker_of_gunicorn_sends_its_spans_and_the_last_ones_as_it_ends(tmp_path, sink):
    """The exporter runs in the worker, after the fork; SIGTERM exports pending spans."""
    settings = NO_LIMITS | {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.address}
    with GunicornProcess(tmp_path, app="tests.e2e.answering_app:app", **settings) as service:
        body = b'{"prompt": "Hello"}'
        request = (
            f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        until(lambda: answers(service))
        with service.connect(request + body) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
        service.signal(signal.SIGTERM)
        assert service.ended() == 0
    assert len(sink.spans(5)["chat avibe"]) == 1


def answers(service):
    """Return whether it answers."""
    try:
        return service.get("/api/health/live", timeout=2)[0] == 200
    except OSError:
        return False
