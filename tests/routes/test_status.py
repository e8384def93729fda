"""The operator's page: tiles, table and samples, from the service's own figures."""

import pytest

from edge.services import services
from engine.errors import ModelError
from engine.types import Status
from telemetry.metrics.machine import GpuFigures
from telemetry.protocol import Protocol
from tests.e2e.gunicorn_process import until
from tests.fakes import FakeMachine


@pytest.fixture
def machine():
    return FakeMachine(GpuFigures("GPU", allocated=25, reserved=30, total=100, busy=None))


@pytest.fixture
def history(app):
    return services(app).metrics.history


def lines(client, after=-1):
    """Return the lines of the samples: (plot, key, model) to values."""
    body = client.get(f"/status/samples?after={after}").json
    return {(line["plot"], line["key"], line["model"]): line["values"] for line in body["lines"]}


def test_every_plot_has_its_lines(client, history, avibe):
    """An answer and a failure are in the next sample."""
    client.post("/avibe", data={"prompt": "x"})
    avibe.failure = ModelError("The model failed on this request.")
    client.post("/avibe", data={"prompt": "x"})
    avibe.report(num_requests_waiting=2)
    history.take()
    found = lines(client)
    assert found["first_token", "p50", ""] == found["first_token", "p95", ""] == [0.5]
    assert found["requests", "waiting", "avibe"] == [2]
    assert found["memory", "gpu_memory", ""] == [25.0]
    assert found["memory", "gpu_busy", ""] == [None]
    assert found["errors", "model_error", ""] == [1]
    assert {plot for plot, _, _ in found} == {"tokens", "requests", "first_token", "memory", "errors"}


def test_each_gpu_has_its_lines(client, history, machine):
    """Named where there are several."""
    machine.gpu_figures += (GpuFigures("GPU", allocated=1, reserved=1, total=10, busy=0.5, device="cuda:1"),)
    history.take()
    found = lines(client)
    assert found["memory", "gpu_memory", "cuda:0"] == [25.0]
    assert found["memory", "gpu_memory", "cuda:1"] == [10.0]
    assert found["memory", "gpu_busy", "cuda:1"] == [50.0]
    assert "GPU memory cuda:1" in client.get("/status").text


def test_only_new_samples_are_sent(client, history):
    """An open page requests the samples after its last one."""
    history.take()
    history.take()
    times = client.get("/status/samples").json["at"]
    assert len(times) == 2
    assert client.get(f"/status/samples?after={times[-1] + 1}").json["at"] == []
    assert len(client.get("/status/samples?after=nonsense").json["at"]) == 2


def test_a_disconnect_is_no_error(client, history, app):
    """The operator sees failures of the service alone."""
    services(app).metrics.generation_failed("avibe", Protocol.API, "request_aborted")
    history.take()
    assert not any(plot == "errors" for plot, _, _ in lines(client))


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ("First token p50", "Time to first token, seconds: p95", "<td>0.5</td>")),
        ("ru", ("Первый токен", "Запросы: avibe: в работе", "<td>0,5</td>")),
    ],
)
def test_the_figures_can_be_read_as_text(client, history, language, expected):
    """Tiles and a table with last, mean and maximum, in both languages, before and after the first sample."""
    headers = {"Accept-Language": language}
    assert "–" in client.get("/status", headers=headers).text
    client.post("/avibe", data={"prompt": "x"})
    history.take()
    for path in ("/status", "/status/figures"):
        page = client.get(path, headers=headers).text
        assert all(text in page for text in expected)


def test_the_state_has_its_colour(client, avibe):
    """A failed model has the status `dead` in the markup."""
    avibe.become(Status.DEAD)
    assert 'data-status="dead"><dt>State</dt><dd>failed</dd>' in client.get("/status").text


def test_samples_are_taken_once_the_service_starts_to_serve(app, history):
    """A request to an application without a server starts no thread."""
    app.test_client().get("/")
    assert history.samples() == []
    services(app).begin_serving()
    until(history.samples)
