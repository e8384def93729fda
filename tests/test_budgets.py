"""The rate budgets: which routes share one, and which client is charged."""

from io import BytesIO

import pytest

from app_production import create_app
from config import load_settings
from edge.route_table import ROUTES, Budget
from engine.types import Status
from tests.good_requests import GENERATIONS, TEXT, call, good_request


@pytest.fixture
def limited(models, machine, state_dir):
    """A client of a service with the default limits."""
    return create_app(load_settings({"STATE_DIR": str(state_dir)}, None), models, machine).test_client()


def test_generation_routes_share_one_budget(limited):
    """Ten in total through any form or API, then 429 with all its headers."""
    for number in range(10):
        path = GENERATIONS[number % len(GENERATIONS)]
        assert limited.post(path, **good_request(path)).status_code == 200
    response = limited.post(TEXT, json={"prompt": "x"})
    assert response.status_code == 429
    assert response.json["error"] == "rate_limit_exceeded"
    assert response.json["message"] == "Rate limit exceeded: 10 requests per minute"
    assert 0 < response.json["retry_after"] <= 60
    assert response.headers["Retry-After"] == str(response.json["retry_after"])
    for path in ("/v1/completions", "/v1/responses"):
        refused = limited.post(path, **good_request(path))
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == str(refused.json["error"]["retry_after"])
    assert (response.headers["RateLimit-Limit"], response.headers["RateLimit-Remaining"]) == ("10", "0")
    page = limited.post("/avibe", data={"prompt": "x"}, headers={"Accept-Language": "ru"})
    assert page.status_code == 429
    assert "Превышен лимит запросов в минуту: 10" in page.text


@pytest.mark.parametrize("name", sorted(name for name, row in ROUTES.items() if row.budget is Budget.GENERATION))
def test_a_model_that_takes_no_requests_costs_nothing(limited, avibe, avision, name):
    """However often a client comes back while it loads or stops; a spent budget is told as ever."""
    path = name.split()[1]
    for model in (avibe, avision):
        model.become(Status.LOADING)
    refused = [limited.post(path, **good_request(path)) for _ in range(12)]
    assert {(one.status_code, one.headers["RateLimit-Remaining"]) for one in refused} == {(503, "10")}
    assert all("Retry-After" in one.headers for one in refused)
    for model in (avibe, avision):
        model.become(Status.READY)
    assert [limited.post(path, **good_request(path)).status_code for _ in range(11)] == [200] * 10 + [429]
    avibe.become(Status.LOADING)
    assert limited.post(path, **good_request(path)).status_code == 429


def test_an_unknown_model_is_charged_as_one_answer(limited):
    """Like every body that is refused."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        refused = limited.post(path, json=good_request(path)["json"] | {"model": "another"})
        assert refused.status_code == 404
    assert refused.headers["RateLimit-Remaining"] == "6"


def test_health_has_a_budget_of_its_own(limited):
    """Fifteen calls in a row end in 429, while everything else goes on."""
    assert [limited.get("/api/health").status_code for _ in range(15)] == [200] * 10 + [429] * 5
    assert limited.post(TEXT, json={"prompt": "x"}).status_code == 200


def test_what_is_free_is_never_refused(limited):
    """Probes, metrics, pages, static files and preflights cost nothing."""
    free = sorted(name for name, row in ROUTES.items() if row.budget is None)
    for _ in range(12):
        assert all(call(limited, name).status_code in (200, 303) for name in free)
        assert limited.options(TEXT).status_code == 200
    assert limited.post(TEXT, json={"prompt": "x"}).headers["RateLimit-Remaining"] == "9"


def test_cheap_refusals_come_before_the_budget(limited):
    """A wrong address, method or content type, or a body too long, is not charged; a wrong field is."""
    for _ in range(20):
        assert limited.get("/api/v1/nothing").status_code == 404
        assert limited.get(TEXT).status_code == 405
        assert limited.post(TEXT, data="x", content_type="text/plain").status_code == 415
    assert limited.post(TEXT, json={}).headers["RateLimit-Remaining"] == "9"


def test_a_refused_call_reaches_no_model_and_no_figure(limited, avibe):
    """Requests refused by the rate limit are not in the JSON metrics; Prometheus counts them."""
    for _ in range(13):
        limited.post(TEXT, json={"prompt": "x"})
    figures = limited.get("/api/metrics").json["application"]
    assert (figures["total_requests"], figures["successful_requests"], figures["failed_requests"]) == (10, 10, 0)
    assert len(avibe.submitted) == 10
    text = limited.get("/metrics").text
    assert 'avito_ai_rate_limit_refusals_total{budget="generation",window="minute"} 3.0' in text
    assert 'avito_ai_requests_total{model="avibe",protocol="api",status="rate_limit_exceeded"} 3.0' in text


def test_a_spent_budget_is_refused_before_the_body_is_read(limited):
    """If the cost is in the body, a client with a spent budget is refused before its 64 MiB are read."""
    for _ in range(10):
        limited.post(TEXT, json={"prompt": "x"})
    unread = BytesIO(b"x" * 1000)
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    path = next(name.split()[1] for name, row in sorted(ROUTES.items()) if row.cost_in_body)
    kind = "application/json"
    response = limited.post(path, input_stream=unread, content_type=kind, environ_overrides=chunked)
    assert response.status_code == 429
    assert unread.tell() == 0


def test_a_client_cannot_choose_its_address(models, machine, caplog):
    """Without trusted proxies a forwarded header changes nothing and is logged once, with the name of the setting."""
    client = create_app(load_settings({"RATE_LIMIT_PER_MINUTE": "1"}, None), models, machine).test_client()
    statuses = [
        client.get("/api/health", headers={"X-Forwarded-For": f"1.1.1.{number}"}).status_code for number in range(5)
    ]
    assert statuses == [200, 429, 429, 429, 429]
    assert caplog.text.count("TRUSTED_PROXIES") == 1


def test_behind_a_trusted_proxy_each_client_has_its_own_budget(models, machine, caplog):
    """The proxy's own entry counts; the client's entries before it do not."""
    environ = {"RATE_LIMIT_PER_MINUTE": "1", "TRUSTED_PROXIES": "1"}
    client = create_app(load_settings(environ, None), models, machine).test_client()

    def status(forwarded):
        return client.get("/api/health", headers={"X-Forwarded-For": forwarded}).status_code

    assert [status("1.1.1.1"), status("2.2.2.2")] == [200, 200]
    assert [status("9.9.9.9, 1.1.1.1"), status("8.8.8.8, 2.2.2.2")] == [429, 429]
    assert "TRUSTED_PROXIES" not in caplog.text
