"""The hooks around every route: request ids, access, CORS, headers, and the format of every failure."""

import re
import uuid

import pytest
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding
from werkzeug.test import EnvironBuilder, run_wsgi_app

import engine.errors
from app_production import create_app
from config import load_settings
from edge import errors
from edge.route_table import ROUTES, Need
from edge.services import services
from engine.errors import (
    ContextTooLong,
    DeadlineExceeded,
    ModelError,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    RequestAborted,
    RetryLater,
    ServiceError,
    UnsupportedMediaType,
    ValidationError,
)
from serving.arrival import Unserved
from serving.framing import RequestTooSlow
from serving.malformed import FailureResponses
from telemetry.access_lines import SparseLines
from tests.fakes import Clock
from tests.good_requests import GENERATIONS, TEXT, call, good_request, real_path

KEY = "a-key-of-an-operator"


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_every_route_answers_with_every_header(client, name):
    """Every response of every route has the request id, its time and the security headers."""
    response = call(client, name, headers={"X-Request-ID": "mine-1"})
    assert response.status_code in (200, 303)
    assert response.headers["X-Request-ID"] == "mine-1"
    assert re.fullmatch(r"\d+\.\d{3}s", response.headers["X-Response-Time"])
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("name", sorted(name for name in ROUTES if name != "GET /"))
def test_a_slash_at_the_end_changes_nothing(client, name):
    """No redirect, which would lose a body; the same answer, and the same rules."""
    with_slash, plain = call(client, name, "/"), call(client, name)
    assert (with_slash.status_code, with_slash.mimetype) == (plain.status_code, plain.mimetype)
    goals = [
        re.sub("keys/[a-z0-9]{12}", "keys/<key_id>", one.headers.get("Location", "")) for one in (with_slash, plain)
    ]
    assert goals[0] == goals[1]
    assert (b"form" in with_slash.data) == (b"form" in plain.data)


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_every_route_refuses_other_methods_in_its_own_shape(client, name):
    """405 with Allow: JSON under /api and where probes ask, OpenAI's or Anthropic's under /v1, else a page."""
    path = real_path(name)
    response = client.open(path, method="PATCH")
    assert response.status_code == 405
    assert name.split()[0] in response.headers["Allow"]
    if path.startswith(("/api", "/health", "/ready")):
        assert response.json["error"] == "method_not_allowed"
    elif path.startswith("/v1/messages"):
        assert (response.json["type"], response.json["error"]["type"]) == ("error", "invalid_request_error")
    elif path.startswith("/v1"):
        assert response.json["error"]["code"] == "method_not_allowed"
    else:
        assert response.mimetype == "text/html"


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1/nothing", "/api/health//", "/api/%00", "/api/../etc"])
def test_unknown_addresses_under_api_are_json(client, path):
    """404 in the format of the route, without any part of the address."""
    response = client.get(path)
    assert response.status_code == 404
    assert set(response.json) == {"error", "message", "request_id"}
    assert response.json["error"] == "not_found"


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/", "///", "//api/health", "/api//health"])
def test_no_address_leads_to_another_host(client, path):
    """Slashes too many are not corrected by a redirect, which would go to the Host that the client chose."""
    response = client.open("/", headers={"Host": "evil.example"}, environ_overrides={"PATH_INFO": path})
    assert response.status_code in (200, 404)
    assert "Location" not in response.headers


@pytest.mark.parametrize("asked", ["bytes=0-10,20-30", "bytes=0-0", "bytes=999999-", "bytes=5-2", "items=0-1", "none"])
def test_files_are_sent_whole_whatever_part_is_asked_for(client, asked):
    """Ranges may be passed over, and one that cannot be met is no mistake of a browser."""
    whole = client.get("/static/style.css", buffered=True)
    part = client.get("/static/style.css", headers={"Range": asked}, buffered=True)
    assert (part.status_code, part.data) == (200, whole.data)


@pytest.mark.parametrize("path", ["/nothing", "/static/../config.py", "/static/nothing.css", "/apiary"])
def test_unknown_addresses_elsewhere_are_a_page(client, path):
    """Outside /api and /v1 a failure is a page with the same status."""
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (404, "text/html")
    assert "There is nothing at this address." in response.text


def test_failures_under_v1_have_the_shape_of_openai(client):
    """Every failure under /v1 has OpenAI's format, an unknown address included."""
    error = client.get("/v1/nothing", headers={"X-Request-ID": "mine"}).json["error"]
    assert error.pop("message").startswith("There is nothing at this address.")
    assert error == {
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
        "request_id": "mine",
    }


def every_error(kind=ServiceError):
    """Return the classes of the error tree and those of the framework."""
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in every_error(child))]


def made(kind):
    """Return an error of this class."""
    if issubclass(kind, RetryLater):
        return kind.__new__(kind) if kind.__init__ is not RetryLater.__init__ else kind("A sentence.", 7)
    return kind("A sentence.")


STATUSES = {
    ValidationError: (400, "validation_error"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    PayloadTooLarge: (413, "payload_too_large"),
    UnsupportedMediaType: (415, "unsupported_media_type"),
    RequestAborted: (499, "request_aborted"),
    Overloaded: (503, "overloaded"),
    NotReady: (503, "not_ready"),
    DeadlineExceeded: (504, "deadline_exceeded"),
    ModelError: (500, "model_error"),
}


# Clients match them; the last one no client sees.
CODES = {
    "validation_error": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "rate_limit_exceeded": 429,
    "budget_exceeded": 429,
    "model_error": 500,
    "internal_error": 500,
    "upstream_error": 502,
    "overloaded": 503,
    "not_ready": 503,
    "deadline_exceeded": 504,
    "request_aborted": errors.CLIENT_CLOSED_REQUEST,
}


def test_a_code_is_one_of_a_fixed_list_and_has_one_status():
    """Whatever error it stands for, those of a server elsewhere included."""
    assert sorted({(meaning.code, meaning.status) for meaning in errors.ERRORS.values()}) == sorted(CODES.items())


@pytest.mark.parametrize("path", GENERATIONS)
@pytest.mark.parametrize("kind", sorted(STATUSES, key=lambda kind: kind.__name__))
def test_every_generation_route_returns_every_error(client, avibe, avision, path, kind):
    """Each error class has its status and code, as JSON and as a page; none becomes a 500 by accident."""
    error = made(kind)
    avibe.failure = avision.failure = error
    response = client.post(path, **good_request(path))
    status, code = STATUSES[kind]
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("7" if isinstance(error, RetryLater) else None)
    if path.startswith("/api"):
        assert (response.json["error"], response.json["message"]) == (code, "A sentence.")
    else:
        assert "A sentence." in response.text


@pytest.mark.parametrize("path", GENERATIONS)
def test_every_generation_route_survives_the_unexpected(client, avibe, avision, path):
    """An unexpected exception is a 500 without any of its text."""
    avibe.refusal = avision.refusal = ZeroDivisionError("secret")
    response = client.post(path, **good_request(path))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["X-Request-ID"] in response.text


def test_every_class_of_the_tree_has_a_meaning():
    """A new error class must be in the table; none gets its status by default."""
    own = {kind for kind in every_error() if kind.__module__ in (engine.errors.__name__, errors.__name__)}
    vague = {ServiceError, RetryLater, errors.InternalError}
    fallen = {kind for kind in own - vague if not issubclass(kind, tuple(set(errors.ERRORS) - {ServiceError}))}
    assert not fallen


@pytest.mark.parametrize("claimed", ["a", "A-b_c.9", "x" * 128])
def test_a_well_formed_request_id_is_kept(client, claimed):
    """In the header and in the body."""
    response = client.post(TEXT, json={}, headers={"X-Request-ID": claimed})
    assert response.headers["X-Request-ID"] == response.json["request_id"] == claimed


@pytest.mark.parametrize("claimed", ["", "x" * 129, "a b", "a/b", "é", "a;b", '"'])
def test_any_other_request_id_is_replaced(client, claimed):
    """By a version 4 UUID, so that no unexpected characters reach logs and bodies."""
    made_here = client.post(TEXT, json={}, headers={"X-Request-ID": claimed}).json["request_id"]
    assert uuid.UUID(made_here).version == 4


def test_the_access_line_has_method_route_status_seconds_and_address(client, caplog):
    """One line per request, with the route as the table has it."""
    caplog.set_level("INFO")
    client.get("/api/health")
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"GET /api/health 200 \d\.\d{3}s 127\.0\.0\.1", line)


def test_probes_are_logged_at_debug_alone(client, caplog):
    """Probes are logged at DEBUG, so that one per second does not fill the journal."""
    caplog.set_level("DEBUG")
    client.get("/api/health/ready")
    client.get("/api/health/live")
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_no_route_is_for_another_protocol(client, name):
    """A client that offers one is answered as any other."""
    plain = call(client, name).status_code
    assert call(client, name, headers={"Connection": "upgrade", "Upgrade": "websocket"}).status_code == plain


@pytest.fixture
def three_lines(app):
    """The clock of an application whose refusals leave three lines a second."""
    clock = Clock()
    SparseLines.__init__(services(app).access_lines, 3, clock)
    return clock


REFUSED = {
    "404": lambda app: app.test_client().get("/nowhere"),
    "405": lambda app: app.test_client().put("/api/health"),
    "403": lambda app: app.test_client().get("/api/admin/audit", environ_base={"REMOTE_ADDR": "1.1.1.1"}),
    "400": lambda app: app.test_client().post(TEXT, json={}),
    "400 of no request": lambda app: FailureResponses(app).response(Unserved(b"GET /\n\n", "::1"), InvalidHeader("")),
    "408": lambda app: FailureResponses(app).response(Unserved(b"GET /", "::1"), RequestTooSlow()),
    "501": lambda app: FailureResponses(app).response(Unserved(b"GET /", "::1"), UnsupportedTransferCoding("")),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_flood_of_refused_requests_has_some_lines_a_second(app, three_lines, caplog, kind):
    """Whatever is wrong with them: a line counts the others by their status, as of no request, and the metrics each."""
    caplog.set_level("INFO")
    for _ in range(8):
        REFUSED[kind](app)
    lines = [record for record in caplog.records if record.name == "avito_ai.access"]
    assert len(lines) == 3
    status = lines[0].getMessage().split()[2]
    caplog.clear()
    three_lines.advance(1.0)
    services(app).gate.tell_unlogged()
    (told,) = caplog.records
    assert told.getMessage() == f"Refused without a line each within a second, by status: {status}: 5"
    assert told.request_id == "-"
    counts = re.findall(rf'http_requests_total{{.*status="{status}".*}} (.*)', app.test_client().get("/metrics").text)
    assert sum(map(float, counts)) == 8


def test_refusals_of_all_kinds_share_their_lines(app, three_lines, caplog):
    """A flood of several kinds is no larger."""
    caplog.set_level("INFO")
    for refuse in REFUSED.values():
        refuse(app)
    assert len([record for record in caplog.records if record.name == "avito_ai.access"]) == 3


def test_what_is_answered_and_what_a_model_was_asked_for_has_its_line(app, avibe, three_lines, caplog):
    """Also beside a flood of refusals; and so has every failure of the service."""
    client = app.test_client()
    for _ in range(5):
        client.get("/nowhere")
    caplog.set_level("INFO", "avito_ai.access")
    caplog.clear()
    for error, status in ((None, 200), (ContextTooLong("Too long.", "prompt"), 400), (Overloaded("Busy."), 503)):
        avibe.refusal = error
        for _ in range(5):
            assert client.post(TEXT, json={"prompt": "x"}).status_code == status
    assert len([record for record in caplog.records if record.name == "avito_ai.access"]) == 15


def test_an_unknown_path_is_logged_harmlessly(client, caplog):
    """The log shows no line break and only the start of a long path."""
    caplog.set_level("INFO")
    client.get("/a%0Ab/" + "x" * 5000)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("GET /a%0Ab/xxx")
    assert len(line) < 200


# --- who may call ---


@pytest.fixture
def with_key(environ, models, machine):
    """A client of a service with ADMIN_KEY."""
    return create_app(load_settings({**environ, "ADMIN_KEY": KEY}, None), models, machine).test_client()


GUARDED = sorted(name for name, row in ROUTES.items() if row.need in (Need.LOCAL_OR_ADMIN, Need.OPERATOR))
FOREIGN = {"REMOTE_ADDR": "10.1.2.3"}


@pytest.mark.parametrize("name", GUARDED)
def test_guarded_routes_answer_this_machine_and_the_operator_alone(client, with_key, name):
    """403 if no key is set, 401 if one is; neither reveals the key."""
    assert call(client, name).status_code in (200, 303)
    assert call(client, name, environ_base=FOREIGN).status_code == 403
    refused = call(with_key, name, environ_base=FOREIGN)
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert call(with_key, name, environ_base=FOREIGN, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert call(with_key, name, environ_base=FOREIGN, headers={"Authorization": f"Bearer {KEY}"}).status_code in (
        200,
        303,
    )


@pytest.mark.parametrize("header", ["X-Real-IP", "X-Forwarded-For", "Forwarded", "X-Forwarded-Host"])
@pytest.mark.parametrize("name", GUARDED)
def test_a_proxy_on_this_machine_is_not_this_machine(client, name, header):
    """A request that a proxy forwards is not local."""
    assert call(client, name, headers={header: "127.0.0.1"}).status_code == 403


@pytest.mark.parametrize("name", sorted(set(ROUTES) - set(GUARDED)))
def test_open_routes_answer_every_caller(client, name):
    """A remote address without a key."""
    assert call(client, name, environ_base=FOREIGN).status_code in (200, 303)


# --- CORS ---

METHODS = {"GET", "POST", "OPTIONS"}
EXPOSED = {
    "X-Request-ID",
    "Request-ID",
    "X-Response-Time",
    "X-Max-Tokens",
    "X-Model",
    "X-Model-Fingerprint",
    "X-Cost",
    "X-Cache",
    "X-Next-Offset",
    "X-Should-Retry",
    "X-Stream-Id",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "RateLimit-Policy",
}


def listed(response, name):
    return {item.strip() for item in response.headers[f"Access-Control-{name}"].split(",")}


def asking(headers, method="POST"):
    """Return the headers of a preflight."""
    return {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def test_any_page_may_call_by_default(client):
    """`*`, the exact methods, the headers that it asks for, and no credentials, on failures too."""
    preflight = client.options(TEXT, headers=asking("authorization, content-type, x-request-id, x-other"))
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert listed(preflight, "Allow-Methods") == METHODS
    assert listed(preflight, "Allow-Headers") == {"authorization", "content-type", "x-request-id", "x-other"}
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    for response in (client.get("/api/health"), client.post(TEXT, json={}), client.get("/api/nothing")):
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert listed(response, "Expose-Headers") == EXPOSED
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "names",
    [
        "content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count,x-stainless-runtime",
        "openai-organization,openai-project,openai-beta",
        "anthropic-version,anthropic-dangerous-direct-browser-access,x-api-key",
        "User-Agent, HTTP-Referer, X-Title",
        "traceparent,idempotency-key",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/api/v1/text/generate", "/api/health"])
def test_a_page_may_send_whatever_headers_its_library_has(client, path, names):
    """Those of OpenAI's and Anthropic's libraries, and any other; caches keep the answers to each question apart."""
    response = client.options(path, headers=asking(names))
    assert response.status_code == 200
    assert listed(response, "Allow-Headers") == {name.strip().lower() for name in names.split(",")}
    assert {"Access-Control-Request-Headers", "Access-Control-Request-Method"} <= set(response.vary)


@pytest.mark.parametrize("names", ["", " ", ",", "a b", "x-\u00e9", "x: y", "a;b", '"x"', "x" * 129, "(x)"])
def test_what_is_no_name_of_a_header_is_not_echoed(client, names):
    """A list is taken apart, and only names leave again."""
    response = client.options(TEXT, headers=asking(f"x-good,{names}"))
    assert listed(response, "Allow-Headers") == {"x-good"}
    assert "Access-Control-Allow-Headers" not in client.options(TEXT, headers=asking(names)).headers


def test_a_long_list_of_headers_is_cut(client):
    """No answer grows with the question."""
    response = client.options(TEXT, headers=asking(",".join(f"x-{number}" for number in range(1000))))
    assert listed(response, "Allow-Headers") == {f"x-{number}" for number in range(100)}
    assert len(client.options(TEXT, headers=asking("x,X," * 500)).headers["Access-Control-Allow-Headers"]) == 1


def test_pages_may_delete_where_an_address_allows_it(app):
    """DELETE is offered where a route has it, and nowhere else; other methods never are."""
    app.add_url_rule("/v1/things/<name>", "one_thing", lambda name: "", methods=["GET", "DELETE", "PATCH"])
    client = app.test_client()
    offered = client.options("/v1/things/x", headers=asking("", "DELETE"))
    assert listed(offered, "Allow-Methods") == METHODS | {"DELETE"}
    assert offered.headers["Access-Control-Max-Age"] == "600"
    assert listed(client.options("/v1/models", headers=asking("", "DELETE")), "Allow-Methods") == METHODS


def test_a_page_that_is_not_allowed_is_told_nothing(environ, models, machine):
    """Neither methods nor headers."""
    settings = load_settings({**environ, "ALLOWED_ORIGINS": "https://b.example"}, None)
    response = create_app(settings, models, machine).test_client().options(TEXT, headers=asking("content-type"))
    assert not [name for name in response.headers.keys() if name.startswith("Access-Control")]


def test_a_list_of_origins_is_kept_to(environ, models, machine):
    """A listed origin is named in the response; any other is not allowed."""
    settings = load_settings({**environ, "ALLOWED_ORIGINS": "https://a.example, https://b.example"}, None)
    client = create_app(settings, models, machine).test_client()
    allowed = client.get("/api/health", headers={"Origin": "https://b.example"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://b.example"
    assert "Origin" in allowed.headers["Vary"]
    for origin in ("https://c.example", "https://a.example.evil", "https://aXexample"):
        foreign = client.get("/api/health", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in foreign.headers
        assert "Origin" in foreign.vary


@pytest.mark.parametrize("origins", ["https://a.example", "https://a.example, https://b.example"])
def test_caches_keep_the_answers_to_each_origin_apart(environ, models, machine, origins):
    """Also that to an origin that is not allowed, or to none; where every origin may, there is one answer to all."""
    listed_ones = create_app(load_settings({**environ, "ALLOWED_ORIGINS": origins}, None), models, machine)
    anybody = create_app(load_settings(environ, None), models, machine)
    for path in ("/", "/favicon.ico", "/static/app.js", "/api/nothing"):
        for headers in ({}, {"Origin": "https://a.example"}, {"Origin": "https://c.example"}):
            asked = {"headers": headers, "buffered": True}
            assert "Origin" in listed_ones.test_client().get(path, **asked).vary
            assert "Origin" not in anybody.test_client().get(path, **asked).vary


@pytest.mark.parametrize("path", ["/", "/api/health/live", "/api/nothing", "/v1/models", "/static/app.js"])
def test_a_request_of_http_1_1_names_its_host(app, client, path):
    """One that does not is refused, whatever it asks for; before HTTP/1.1 there was no such field."""

    def status(protocol):
        environ = EnvironBuilder(path).get_environ() | {"SERVER_PROTOCOL": protocol}
        del environ["HTTP_HOST"]
        return int(run_wsgi_app(app, environ, buffered=True)[1].split()[0])

    assert status("HTTP/1.1") == 400
    assert status("HTTP/1.0") == client.get(path, buffered=True).status_code


@pytest.mark.parametrize("host", ["..", "a..b", "x" * 70])
def test_a_host_that_is_no_name_is_the_clients_mistake(client, caplog, host):
    """A page cannot be rendered for it, so a line of text says so; nothing is logged as an error of ours."""
    for path in ("/", "//x", "/api/health", "/v1/models"):
        assert client.get(path, headers={"Host": host}).status_code == 400, path
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
