"""The observer: each event of a request's life reaches metrics, trace and log together."""

import logging
from dataclasses import replace

import pytest

from engine.types import Completion, Timings
from telemetry.metrics import Metrics
from telemetry.observer import RequestObserver
from telemetry.protocol import Protocol
from telemetry.tracing import Trace
from tests.fakes import Clock, FakeMachine, scripted_models


class RecordedTrace(Trace):
    """A trace that records its calls."""

    def __init__(self):
        self.events = []

    def validated(self, model, served_id, prompts, answers):
        self.events.append(("validated", model, served_id, prompts, answers))

    def answered(self, number, completion):
        self.events.append(("answered", number))

    def failed(self, code, status, message):
        self.events.append(("failed", code, status))

    def responded(self, status, streamed):
        self.events.append(("responded", status, streamed))


@pytest.fixture
def metrics():
    return Metrics(scripted_models(), FakeMachine(), lambda: 0)


@pytest.fixture
def trace():
    return RecordedTrace()


@pytest.fixture
def clock():
    return Clock()


def observer(metrics, trace, clock, model=None):
    return RequestObserver(metrics, trace, "an-id", clock(), model, Protocol.API, clock)


COMPLETION = Completion("text", "stop", 7, 5, Timings(queued=0.25, first_token=0.5, total=1.25), ())


def test_an_answer_is_counted_traced_and_logged(metrics, trace, clock, caplog):
    """The seconds run from the request's arrival, and the lines carry the request's id whatever thread logs them."""
    caplog.set_level("INFO")
    seen = observer(metrics, trace, clock)
    seen.validated("avibe", "avibe-demo", 1, 1)
    seen.tokenized(7)
    clock.advance(2)
    seen.answered(0, COMPLETION)
    assert metrics.application.shown()["avg_response_time"] == "2.000s"
    assert metrics.application.shown()["avibe_requests"] == 1
    assert trace.events == [("validated", "avibe", "avibe-demo", 1, 1), ("answered", 0)]
    assert caplog.messages == [
        "validated: avibe",
        "tokenized: 7 prompt tokens",
        "generated: 5 tokens in 2.000s (stop)",
    ]
    assert {record.request_id for record in caplog.records} == {"an-id"}
    assert seen.served_id == "avibe-demo"


def test_the_lines_of_a_batch_have_its_level(metrics, trace, clock, caplog):
    """Hundreds of texts in one request do not fill the log."""
    caplog.set_level("INFO")
    seen = observer(metrics, trace, clock)
    seen.validated("avibe", "avibe", 2, 2, level=logging.DEBUG)
    seen.answered(0, COMPLETION)
    assert caplog.messages == []


@pytest.mark.parametrize(("model", "failures"), [("avibe", 1), (None, 0)])
def test_a_failure_counts_where_the_model_is_known(metrics, trace, clock, model, failures):
    """Only requests for a generation count as failed ones."""
    observer(metrics, trace, clock, model).failed("validation_error", 400, "A message.")
    assert metrics.application.shown()["failed_requests"] == failures
    assert (b'status="validation_error"} 1.0' in metrics.prometheus.text(named=True)) == bool(failures)
    assert trace.events == [("failed", "validation_error", 400)]


def test_what_clients_bring_about_is_no_failure_of_the_service(metrics, trace, clock):
    """Refused callers are none of its failed requests, and who leaves is none of its errors."""
    for code in ("rate_limit_exceeded", "budget_exceeded", "unauthorized", "forbidden"):
        observer(metrics, trace, clock, "avibe").failed(code, 403, "A message.")
    assert metrics.application.shown()["failed_requests"] == 0
    observer(metrics, trace, clock, "avibe").failed("request_aborted", 499, "A message.")
    metrics.history.take()
    assert "request_aborted" not in metrics.history.samples()[-1].errors


def test_a_kept_answer_and_one_of_a_version_count_as_what_they_are(metrics, trace, clock):
    """The one has cost no tokens; the other is one of its model."""
    for model, kept in (("avibe", True), ("avibe@v2", False)):
        observer(metrics, trace, clock, model).answered(0, replace(COMPLETION, from_cache=kept))
    shown = metrics.application.shown()
    assert (shown["avibe_requests"], shown["total_tokens_generated"]) == (2, 5)


def test_a_response_is_counted_by_its_route_and_logged(metrics, trace, clock, caplog):
    """Of a path without a route the start is logged, escaped, and no metric has it as a label."""
    caplog.set_level("INFO")
    seen = observer(metrics, trace, clock)
    clock.advance(1.5)
    seconds = seen.responded("GET", None, "/a b" + "c" * 200, "::1", 404, streamed=False, level=logging.INFO)
    assert seconds == 1.5
    assert caplog.messages == [f"GET /a%20b{'c' * 114} 404 1.500s ::1"]
    assert b"/a" not in metrics.prometheus.text(named=True)
    assert b"avito_ai_key_requests_total{" not in metrics.prometheus.text(named=True)  # nobody has said who it was
    assert trace.events == [("responded", 404, False)]
