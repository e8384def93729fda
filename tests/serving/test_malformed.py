"""What is noted of a request that is answered outside of the framework: the same as of one that the hooks refuse."""

import json
import re
import time

import pytest
from gunicorn.http.errors import ExpectationFailed, InvalidHeader, LimitRequestHeaders

from edge.route_table import ROUTES, Budget
from edge.services import services
from engine.errors import BUSY, WAITED_TOO_LONG, DeadlineExceeded, Overloaded
from serving.arrival import Unserved
from serving.framing import RequestBrokenOff, RequestTooSlow
from serving.malformed import FailureResponses
from tests.good_requests import real_path

# How a request ends outside of the framework, with its status and the code that is counted.
ENDS = {
    "waited too long": (DeadlineExceeded(WAITED_TOO_LONG), 504, "deadline_exceeded"),
    "too many at once": (Overloaded(BUSY), 503, "overloaded"),
    "no memory": (MemoryError(), 503, "overloaded"),
    "slow": (RequestTooSlow(), 408, "validation_error"),
    "broken off": (RequestBrokenOff(), 400, "validation_error"),
    "malformed": (InvalidHeader("x"), 400, "validation_error"),
    "an expectation": (ExpectationFailed("x"), 417, "validation_error"),
    "long fields": (LimitRequestHeaders("x"), 431, "validation_error"),
}
GENERATIONS = sorted(name for name, row in ROUTES.items() if row.budget is Budget.GENERATION)
OTHERS = sorted(ROUTES.keys() - set(GENERATIONS))


def unserved(name, head="", **more):
    """Return a request of a route, with more lines of its head; its body names a model."""
    method, rule = name.split()
    lines = f"{method} {real_path(name)} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n"
    asked = "avision" if rule.startswith("/v1/") else ""
    return Unserved(lines.encode(), "1.2.3.4", **{"asked_model": asked} | more)


def figures(app):
    """Return the total, successful and failed generation requests."""
    shown = app.test_client().get("/api/metrics").json["application"]
    return shown["total_requests"], shown["successful_requests"], shown["failed_requests"]


def counted(app, metric):
    """Return the labels of a metric's series that have counted something."""
    lines = re.findall(rf"^{metric}{{(.*)}} (.*)$", app.test_client().get("/metrics").text, re.MULTILINE)
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels, value in lines if float(value)]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", GENERATIONS)
def test_a_request_to_generate_counts_as_failed(app, name, end):
    """In the total, and with its model, protocol, status and route, however it ends."""
    error, status, code = ENDS[end]
    answer = FailureResponses(app).response(unserved(name), error)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    model = ROUTES[name].model or ("avibe" if name.startswith("POST /api/") else "avision")
    ended = {"model": model, "status": code, "protocol": ROUTES[name].protocol.value}
    assert counted(app, "avito_ai_requests_total") == [ended]
    assert figures(app) == (1, 0, 1)
    method, rule = name.split()
    http = {"method": method, "route": rule, "status": str(status)}
    assert http in counted(app, "avito_ai_http_requests_total")
    (client,) = services(app).metrics.busiest.most(9)
    assert (client.client, client.requests, client.failed) == ("1.2.3.4", 1, 1)


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_request_counts_by_its_route_alone(app, name):
    """It is none of the generation requests."""
    FailureResponses(app).response(unserved(name), Overloaded(BUSY))
    method, rule = name.split()
    assert {"method": method, "route": rule, "status": "503"} in counted(app, "avito_ai_http_requests_total")
    assert (counted(app, "avito_ai_requests_total"), figures(app)) == ([], (0, 0, 0))
    assert services(app).metrics.busiest.most(9) == []


@pytest.mark.parametrize(
    "line",
    ["GET /nowhere HTTP/1.1", "PUT /api/v1/text/generate HTTP/1.1", "OPTIONS * HTTP/1.1", "po(st /avibe HTTP/1.1", "x"],
)
def test_what_has_no_route_is_counted_as_unmatched(app, line):
    """No address that a client makes up becomes a name of a metric."""
    FailureResponses(app).response(Unserved(f"{line}\r\n\r\n".encode(), "1.2.3.4"), InvalidHeader("x"))
    routes = {one["route"] for one in counted(app, "avito_ai_http_requests_total") if one["status"] == "400"}
    assert (routes, figures(app)) == ({"unmatched"}, (0, 0, 0))


@pytest.mark.parametrize("asked", ["", "unknown"])
def test_without_a_model_a_request_counts_as_one_to_its_route(app, asked):
    """As where the hooks refuse it before its body is read."""
    FailureResponses(app).response(unserved("POST /v1/chat/completions", asked_model=asked), Overloaded(BUSY))
    assert (counted(app, "avito_ai_requests_total"), figures(app)) == ([], (0, 0, 0))
    (client,) = services(app).metrics.busiest.most(9)
    assert client.failed == 1


@pytest.mark.parametrize("end", ENDS)
def test_the_id_of_the_client_is_kept(app, end):
    """In header and body, however the request ends."""
    asked = unserved("POST /api/v1/text/generate", "X-Request-ID: mine-1\r\n")
    head, _, body = FailureResponses(app).response(asked, ENDS[end][0]).partition(b"\r\n\r\n")
    assert b"\r\nX-Request-ID: mine-1\r\n" in head
    assert json.loads(body)["request_id"] == "mine-1"


@pytest.mark.parametrize(
    "head",
    [
        "",
        "X-Request-ID: a b\r\n",
        "X-Request-ID: \r\n",
        f"X-Request-ID: {'a' * 129}\r\n",
        "X-Request-ID: a\r\nX-Request-ID: b\r\n",
        "X-Request-ID: cut-in-two",
    ],
)
def test_an_id_that_cannot_be_kept_is_replaced(app, head):
    """Also one that had not arrived whole."""
    sent = f"POST /api/v1/text/generate HTTP/1.1\r\n{head}".encode()
    answer = FailureResponses(app).response(Unserved(sent, "1.2.3.4"), RequestTooSlow())
    assert re.search(rb"\r\nX-Request-ID: [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\r\n", answer)


def test_the_seconds_run_from_the_arrival(app):
    """Of the whole request; one that never arrived has waited for nothing."""
    waited = unserved("POST /api/v1/text/generate", arrived=time.monotonic() - 1000.0)
    times = [
        re.search(rb"\r\nX-Response-Time: ([0-9.]+)s\r\n", FailureResponses(app).response(asked, error))
        for asked, error in ((waited, Overloaded(BUSY)), (unserved("POST /avibe"), RequestTooSlow()))
    ]
    assert float(times[0][1]) >= 1000.0 > float(times[1][1])


def test_who_has_a_key_is_named_by_it(app, caplog):
    """In the access line, in the metrics, and among the busiest clients."""
    caplog.set_level("INFO")
    asked = unserved("POST /api/v1/text/generate", account="key:1", key_name="shop")
    FailureResponses(app).response(asked, DeadlineExceeded(WAITED_TOO_LONG))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
    assert re.fullmatch(r"POST /api/v1/text/generate 504 \d+\.\d{3}s 1\.2\.3\.4 shop", line)
    assert {"key": "shop", "status": "504"} in counted(app, "avito_ai_key_requests_total")
    (client,) = services(app).metrics.busiest.most(9)
    assert (client.client, client.failed) == ("shop", 1)
