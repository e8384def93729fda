"""The operator's page: tiles, table and samples, from the service's own figures."""

import pytest

from app_production import create_app
from edge.errors import STATUSES, is_clients_mistake
from edge.services import services
from engine.errors import ModelError
from engine.types import Status
from models import ModelSet
from routes.locale import LOCALES
from routes.status_figures import duration
from telemetry.metrics.machine import GpuFigures
from telemetry.protocol import Protocol
from telemetry.version import VERSION
from tests.e2e.gunicorn_process import until
from tests.fakes import FakeMachine, ScriptedBackend
from tests.good_requests import TEXT

ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}


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
        ("en", ("First token, median", "Time to first token: p95", "<td>500\u00a0ms</td>")),
        ("ru", ("Первый токен", "Запросы: avibe: в работе", "<td>500\u00a0мс</td>")),
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


def test_what_clients_did_wrong_is_told_apart_from_errors_of_the_service(client, history, avibe):
    """A refused request is in the plot and the tile of refusals, a failed model in those of errors."""
    client.post("/avibe", data={"prompt": ""})
    client.post("/api/v1/text/generate", json={"prompt": "x", "max_tokens": -1})
    avibe.failure = ModelError("The model failed on this request.")
    client.post("/avibe", data={"prompt": "x"})
    history.take()
    found = lines(client)
    assert found["mistakes", "validation_error", ""] == [2]
    assert found["errors", "model_error", ""] == [1]
    page = client.get("/status").text
    assert "<dt>Our errors, last hour</dt><dd>1</dd>" in page
    assert "<dt>Refused, last hour</dt><dd>2</dd>" in page


def test_every_error_code_is_of_one_side():
    """Those answered with 4xx are the client's mistakes; whatever is unknown is ours."""
    ours = {"overloaded", "not_ready", "deadline_exceeded", "model_error", "internal_error"}
    assert {code for code in STATUSES if not is_clients_mistake(code)} >= ours
    assert all(is_clients_mistake(code) == (STATUSES[code] < 500) for code in STATUSES)
    assert not is_clients_mistake("unheard_of")


def test_the_page_says_what_runs(client):
    """Version, who may use it, models with their checkpoints, limits with the settings' names."""
    page = client.get("/status").text
    for text in (
        VERSION,
        "<dd>open</dd>",
        "Models and their checkpoints",
        "RATE_LIMIT_PER_MINUTE",
        "<dd>unlimited</dd>",
    ):
        assert text in page


def test_the_busiest_clients_are_listed(client):
    """With the numbers of their requests and tokens; the page itself and what costs nothing is none."""
    assert "No requests yet." in client.get("/status").text
    for _ in range(3):
        client.post("/avibe", data={"prompt": "x"})
    client.post("/avibe", data={"prompt": ""})
    answers = [client.post(TEXT, json={"prompt": "x"}).json["data"] for _ in range(2)]
    tokens = 5 * (answers[0]["input_tokens"] + answers[0]["generated_tokens"])  # each answer is alike
    figures = "".join(f'<td class="figure">{figure}</td>' for figure in (6, 1, tokens))
    row = f'<th scope="row">127.0.0.1</th>{figures}'
    assert row in client.get("/status").text
    assert row in client.get("/status/figures").text


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_stranger_is_told_what_opens_the_page(client, language):
    """Without ADMIN_KEY: the setting, the way through SSH with this service's port, and where programmers go."""
    page = client.get("/status", headers={"Accept-Language": language, "Host": "ai.example"}, environ_base=ELSEWHERE)
    assert page.status_code == 403
    for text in ("ADMIN_KEY=", "ssh -L 8085:127.0.0.1:8085 ai.example", "http://127.0.0.1:8085/status", "/api/docs"):
        assert text in page.text
    assert 'type="password"' not in page.text


@pytest.mark.parametrize(("seconds", "text"), [(59, "0 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")])
def test_a_time_has_its_two_largest_units(seconds, text):
    """Minutes, hours and minutes, or days and hours."""
    assert duration(seconds, LOCALES["en"].texts["status"]).replace("\u00a0", " ") == text


def test_a_version_that_failed_does_not_make_the_service_fail(settings, machine):
    """The tile shows the state of the service, the table that of each version."""
    models = ModelSet({name: ScriptedBackend(name) for name in ("avibe", "avision", "avibe@v2")})
    models.get("avibe@v2").become(Status.DEAD, restart_needed=True)
    page = create_app(settings, models, machine).test_client().get("/status").get_data(as_text=True)
    assert 'data-status="ready"' in page
    assert 'data-status="dead"' not in page
    assert ">avibe@v2</th>" in page
