"""nginx and HAProxy in front of three copies of the service: no failed request, streams at once, limits by client."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge.failure_shapes import FailureShape, shape_of
from edge.route_table import ROUTES
from tests.deploy.copies import CHAT, LIMIT, TEXT, VISION, Copies, Traffic, is_ready
from tests.deploy.proxies import HAProxy, Nginx
from tests.e2e.gunicorn_process import PATIENCE, free_port, until
from tests.good_requests import real_path
from tests.system_process import ROOT

pytestmark = pytest.mark.needs("openssl", "redis-server")

KINDS = [pytest.param(kind, id=kind.name, marks=pytest.mark.needs(kind.name)) for kind in (Nginx, HAProxy)]
MESSAGES = "/v1/messages"
MESSAGE = {"model": "avibe", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
CHAT_STREAM = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Three copies, ready, with their limits in one Redis."""
    with Copies(tmp_path_factory.mktemp("copies")) as copies:
        yield copies


@pytest.fixture(scope="module", params=KINDS)
def proxy(request, copies, tmp_path_factory):
    """One of the proxies in front of all copies."""
    with request.param(tmp_path_factory.mktemp(request.param.name), copies.ports) as proxy:
        yield proxy


@pytest.fixture(params=KINDS)
def new_proxy(request, tmp_path):
    """Start one of the proxies in front of other ports, with edits by proxy."""
    started = []

    def start(ports, **edits):
        started.append(request.param(tmp_path / f"proxy-{len(started)}", ports, edits.get(request.param.name)))
        return started[-1]

    yield start
    for one in started:
        one.__exit__()


class SilentService:
    """A service that takes requests and answers none: it keeps them, or closes once it has read one whole.

    handing_over: it hands over first what it can. refusing: it refuses what it cannot hand over.
    """

    def __init__(self, close, handing_over=False, refusing=False):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(self.path)
                if handing_over and self.headers.get("X-Another-Copy"):
                    self.send_response(503)
                    self.send_header("X-Accel-Redirect", "@another_copy")
                    self.end_headers()
                elif refusing:
                    self.send_response(503)
                    self.end_headers()
                elif not close:
                    outer.release.wait(PATIENCE)
                self.close_connection = True

            def log_message(self, *_):
                """Log nothing."""

        self.release = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.release.set()
        self.server.shutdown()
        self.thread.join(60)
        self.server.server_close()


def failure_of_api(response, body):
    """Return the code of an error under /api, in the API's format."""
    assert response.headers["Content-Type"] == "application/json"
    said = json.loads(body)
    more = {"retry_after"} if response.status == 429 else set()
    assert set(said) - {"details"} == {"error", "message", "request_id"} | more
    assert said["message"]
    assert said["request_id"] == response.headers["X-Request-ID"]
    return said["error"]


def failure_of_openai(response, body):
    """Return the code of an error under /v1, in the OpenAI format."""
    assert response.headers["Content-Type"] == "application/json"
    said = json.loads(body)["error"]
    assert set(said) == {"message", "type", "param", "code", "request_id"}
    assert said["request_id"] == response.headers["X-Request-ID"]
    return said["code"]


def failure_of_anthropic(response, body):
    """Return the type of an error under /v1/messages, in Anthropic's format."""
    assert response.headers["Content-Type"] == "application/json"
    said, request_id = json.loads(body), response.headers["X-Request-ID"]
    assert (said.pop("type"), said.pop("request_id"), response.headers["Request-ID"]) == ("error", *[request_id] * 2)
    assert set(said) == {"error"}
    assert set(said["error"]) == {"type", "message"}
    return said["error"]["type"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_stops_loads_and_returns_under_traffic_fails_no_request(kind, copies, tmp_path):
    """SIGTERM to one of three copies, which then restarts and loads for a while: every response is complete."""
    with kind(tmp_path / "proxy", copies.ports) as proxy, Traffic(proxy) as traffic:
        traffic.goes_on(10)
        first = copies.running[0]
        first.signal(signal.SIGTERM)
        assert first.ended() == 0
        traffic.goes_on(20)
        again = copies.running[0] = copies.start(loaded=False, PORT=str(first.port))
        until(lambda: alive(again))
        traffic.goes_on(20)
        again.say("load")
        until(lambda: is_ready(again))
        traffic.goes_on(20)
        until(lambda: "POST" in again.log() and " 200 " in again.log())
    assert traffic.failed == []
    assert {name for name, *_ in traffic.done} == {"_text", "_stream", "_upload"}


def alive(copy):
    try:
        return copy.get("/api/health/live", timeout=2)[0] == 200
    except OSError:
        return False


def test_limits_are_one_over_all_copies_and_by_the_clients_own_address(proxy, copies):
    """20 requests per minute for one address, on any copy and with any forwarded header; others are unaffected."""
    mine = "127.9.0.1" if proxy.name == "nginx" else "127.9.0.2"
    answers = []
    for number in range(LIMIT + 5):
        claim = {"X-Forwarded-For": f"8.8.8.{number}", "Forwarded": "for=9.9.9.9", "X-Real-IP": "7.7.7.7"}
        answers.append(proxy.ask(TEXT, {"prompt": "Hello"}, mine, headers=claim))
    assert [response.status for response, _ in answers] == [200] * LIMIT + [429] * 5
    assert failure_of_api(*answers[-1]) == "rate_limit_exceeded"
    assert proxy.ask(TEXT, {"prompt": "Hello"}, "127.9.9.9")[0].status == 200
    served = [copy for copy in copies.running if f" {mine}\n" in copy.log()]
    assert len(served) == 3, "the requests went to one copy alone"


def test_request_id_is_carried_through_to_the_copy_and_back(proxy, copies):
    """A well-formed id of the client is kept, else the proxy sets one; the copy logs the same id."""
    kept, _ = proxy.ask("/api/health", headers={"X-Request-ID": f"mine-{proxy.name}"})
    made, _ = proxy.ask("/api/health", headers={"X-Request-ID": "not well formed!"})
    assert kept.headers["X-Request-ID"] == f"mine-{proxy.name}"
    logs = "".join(copy.log() for copy in copies.running)
    assert f"[mine-{proxy.name}]" in logs
    assert f"[{made.headers['X-Request-ID']}]" in logs
    assert made.headers.get_all("X-Request-ID") == [made.headers["X-Request-ID"]]


@pytest.mark.parametrize(("path", "body"), [(CHAT, CHAT_STREAM), (TEXT, {"prompt": "Hello", "stream": True})])
def test_first_piece_arrives_before_the_last_is_made(proxy, copies, path, body):
    """The first chunk reaches the client while the model is held after it."""
    for copy in copies.running:
        copy.say("hold")
    connection = proxy.connect("127.8.0.1" if path == CHAT else "127.8.0.2")
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    received = b""
    while b"one " not in received:
        received += response.read1()
    assert b"three" not in received
    for copy in copies.running:
        (copy.folder / "hold").unlink()
    received += response.read()
    assert b"two " in received
    assert b"three" in received
    connection.close()


def test_unreachable_copies_are_reported_in_the_format_of_each_api(new_proxy):
    """Without a copy, the error is a 5xx with Retry-After and the request id, as JSON under /api and /v1."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens, so that the port stays taken and refuses connections
        proxy = new_proxy([nobody.getsockname()[1]] * 3)
        if proxy.name == "haproxy":
            until(lambda: "has no server available" in proxy.log())
        api, body = proxy.ask(TEXT, {"prompt": "Hello"}, headers={"X-Request-ID": "mine"})
        assert (api.status, failure_of_api(api, body)) in [(502, "not_ready"), (503, "not_ready")]
        assert api.headers["X-Request-ID"] == "mine"
        assert api.headers["Retry-After"] == "5"
        openai, body = proxy.ask(CHAT, CHAT_STREAM)
        assert failure_of_openai(openai, body) == "not_ready"
        assert "Request-ID" not in openai.headers
        assert failure_of_anthropic(*proxy.ask(MESSAGES, MESSAGE)) == "overloaded_error"
        page, body = proxy.ask("/")
        assert page.headers["Content-Type"].startswith("text/html")
        assert page.status == api.status


def test_unreachable_copies_are_reported_in_the_shape_of_every_route(new_proxy):
    """As the service would report it, of probes too, and of an address with more slashes in front."""
    of_shape = {
        FailureShape.API: failure_of_api,
        FailureShape.OPENAI: failure_of_openai,
        FailureShape.ANTHROPIC: failure_of_anthropic,
        FailureShape.PAGE: page_of,
    }
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = new_proxy([nobody.getsockname()[1]] * 3)
        if proxy.name == "haproxy":
            until(lambda: "has no server available" in proxy.log())
        paths = {real_path(name) for name in ROUTES}
        for path in sorted({*paths, "/healthy", "/apiary", "/health?x", "/nowhere", *(f"/{path}" for path in paths)}):
            response, body = proxy.ask(path, headers={"X-Request-ID": "mine"})
            assert (response.status, response.headers["Retry-After"]) in [(502, "5"), (503, "5")], path
            assert response.headers["X-Request-ID"] == "mine"
            failure = of_shape[shape_of("/" + path.lstrip("/").partition("?")[0])]
            assert failure(response, body) in ("not_ready", "overloaded_error", "page"), path


@pytest.mark.parametrize("mib", [1, 6, 20])
def test_unreachable_copies_are_reported_whatever_the_size_of_the_body(new_proxy, mib):
    """Not as a body that is too large, which no client would send again. HAProxy does not read it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = new_proxy([nobody.getsockname()[1]] * 3)
        if proxy.name == "haproxy":
            until(lambda: "has no server available" in proxy.log())
        size = mib << 20 if proxy.name == "nginx" else 1000
        response, body = proxy.ask(CHAT, {**CHAT_STREAM, "user": "x" * size})
        assert response.status in (502, 503)
        assert failure_of_openai(response, body) == "not_ready"


HOST = b"Host: ai.example\r\n"
UNREAD = {
    "a zero byte in the address": (b"GET /api/%00 HTTP/1.1\r\n" + HOST, 400, failure_of_api),
    "an address above the root": (b"GET /api/../../x HTTP/1.1\r\n" + HOST, 400, failure_of_api),
    "the same for OpenAI": (b"GET /v1/%00 HTTP/1.1\r\n" + HOST, 400, failure_of_openai),
    "the same for Anthropic": (b"GET /v1/messages/%00?KEY HTTP/1.1\r\n" + HOST, 400, failure_of_anthropic),
    "all of the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST, 400, failure_of_api),
    "a trace": (b"TRACE /api/health HTTP/1.1\r\n" + HOST, 405, failure_of_api),
    "a method in small letters": (b"get /api/health HTTP/1.1\r\n" + HOST, 400, failure_of_api),
    "a long address": (b"GET /api/" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST, 414, failure_of_api),
    "a long field": (
        b"GET /v1/models?KEY HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 17_000 + b"\r\n",
        400,
        failure_of_openai,
    ),
    "an unknown coding": (b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: x\r\n", 501, failure_of_api),
    "an unknown version": (b"GET /v1/messages HTTP/2.7\r\n" + HOST, 505, failure_of_anthropic),
    "no host": (b"GET /v1/models HTTP/1.1\r\n", 400, failure_of_openai),
    "words": (b"KEY and more words\r\n", 400, failure_of_api),
    "a field first": (b"Authorization: Bearer KEY\r\n" + HOST, 400, failure_of_api),
}


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """nginx in front of nothing."""
    folder = tmp_path_factory.mktemp("reading")
    with Nginx(folder, [free_port()]) as proxy:
        yield proxy


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.needs("nginx")
def test_what_nginx_cannot_read_is_refused_in_the_shape_of_its_address(reading, name):
    """With the status that says why, and an id; of no address, in that of /api. Nothing but a path is logged."""
    request, status, failure = UNREAD[name]
    with reading.raw(request + b"\r\n") as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read()
    assert response.status == status
    assert failure(response, body)
    assert response.headers["Cache-Control"] == "no-store"
    assert bool(response.headers["Allow"]) == (status == 405)
    line = until(lambda: next(iter(re.findall(rf".*{response.headers['X-Request-ID']}.*", log_of(reading))), None))
    assert "KEY" not in line


def log_of(nginx):
    return (nginx.folder / "avito-ai.access.log").read_text()


@pytest.mark.needs("nginx")
def test_nginx_logs_what_was_asked_for_whatever_it_answers(reading):
    """Method and path of the request, not those of an error page; no query."""
    reading.ask("/avibe?secret=1", {"prompt": "x"}, headers={"X-Request-ID": "logged"})
    line = until(lambda: next(iter(re.findall(r".*\[logged\].*", log_of(reading))), None))
    assert '"POST /avibe HTTP/1.1" 502' in line


@pytest.mark.needs("haproxy")
def test_haproxy_says_in_the_shape_of_an_address_that_a_body_did_not_come(tmp_path):
    """In its time; nginx closes the connection."""
    cases = ((TEXT, failure_of_api), (CHAT, failure_of_openai), (MESSAGES, failure_of_anthropic), ("/avibe", page_of))
    with HAProxy(tmp_path, [free_port()], {"wait-for-body time 10s": "wait-for-body time 1s"}) as proxy:
        for path, failure in cases:
            head = f"POST {path} HTTP/1.1\r\nHost: ai.example\r\nX-Request-ID: mine\r\nContent-Length: 9\r\n\r\n"
            with proxy.raw(head.encode()) as connection:
                response = http.client.HTTPResponse(connection)
                response.begin()
                body = response.read()
            assert (response.status, response.headers["X-Request-ID"]) == (408, "mine")
            assert failure(response, body) in ("validation_error", "invalid_request_error", "page")


def page_of(response, body):
    """Check that a failure is a page with its id."""
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.headers["X-Request-ID"] in body.decode()
    return "page"


def test_generation_that_began_is_never_repeated(new_proxy):
    """A copy that dies during a request fails that request only; it is not sent to another copy."""
    with SilentService(close=True) as first, SilentService(close=True) as second:
        proxy = new_proxy([first.port, second.port, second.port])
        if proxy.name == "haproxy":
            until(lambda: proxy.ask("/")[0].status == 200)
        for path, body, failure in ((TEXT, {"prompt": "x"}, failure_of_api), (CHAT, CHAT_STREAM, failure_of_openai)):
            first.requests.clear()
            second.requests.clear()
            response, answer = proxy.ask(path, body)
            assert (response.status, failure(response, answer)) == (502, "not_ready")
            assert len(first.requests + second.requests) == 1


def test_copy_that_does_not_answer_in_time_is_reported(new_proxy):
    """504 in the shape of each API, and the request is not repeated."""
    edits = {
        "nginx": {"proxy_read_timeout 310s": "proxy_read_timeout 1s"},
        "haproxy": {"timeout server 310s": "timeout server 1s"},
    }
    with SilentService(close=False) as silent:
        proxy = new_proxy([silent.port] * 3, **edits)
        response, body = proxy.ask(TEXT, {"prompt": "x"})
        assert (response.status, failure_of_api(response, body)) == (504, "deadline_exceeded")
        response, body = proxy.ask("/v1/completions", {"model": "avibe", "prompt": "x"})
        assert (response.status, failure_of_openai(response, body)) == (504, "deadline_exceeded")
        response, body = proxy.ask(MESSAGES, MESSAGE)
        assert (response.status, failure_of_anthropic(response, body)) == (504, "timeout_error")
        assert len(silent.requests) == 3


def test_body_over_the_largest_limit_is_refused_before_it_is_sent(proxy):
    """413 in the shape of each API, from the announced length alone."""
    announced = {"Content-Type": "application/json", "Content-Length": str(65 * 2**20)}
    cases = (
        (TEXT, failure_of_api, "payload_too_large"),
        (CHAT, failure_of_openai, "payload_too_large"),
        (MESSAGES, failure_of_anthropic, "request_too_large"),
    )
    for path, failure, code in cases:
        connection = proxy.connect()
        connection.putrequest("POST", path)
        for name, value in announced.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, failure(response, response.read())) == (413, code)
        connection.close()


def test_body_over_a_routes_own_limit_is_refused_by_the_service(proxy):
    """Between the route's limit and the proxy's, the service refuses a body."""
    response, body = proxy.ask(TEXT, b'{"prompt": "' + b"x" * (2 * 2**20) + b'"}', method="POST")
    assert (response.status, failure_of_api(response, body)) == (415, "unsupported_media_type")
    headers = {"Content-Type": "application/json"}
    response, body = proxy.ask(TEXT, b'{"prompt": "' + b"x" * (2 * 2**20) + b'"}', headers=headers)
    assert (response.status, failure_of_api(response, body)) == (413, "payload_too_large")
    assert "Maximum size: 1 MiB" in json.loads(body)["message"]


def test_largest_image_passes(proxy):
    """A body of 21 MiB, nearly all of it an image, reaches the route with a limit of 24 MiB."""
    body = json.dumps({"prompt": "What?", "image": f"data:image/png;base64,{'A' * (21 * 2**20)}"}).encode()
    response, answer = proxy.ask(VISION, body, "127.7.0.1", headers={"Content-Type": "application/json"})
    assert (response.status, failure_of_api(response, answer)) == (415, "unsupported_media_type")


@pytest.mark.parametrize("path", ["/metrics", "/status", "/status/figures", "/%6detrics", "//metrics", "/x/../metrics"])
def test_figures_and_the_operators_page_are_refused_from_outside(proxy, path):
    """They are not reachable from outside, however the path is written."""
    response, body = proxy.ask(path, source="127.6.0.1")
    assert response.status in (403, 404)
    assert b"avito_ai_" not in body


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name", "Path-Info", "X-Script-Name"])
def test_no_field_of_a_client_moves_a_path_past_the_rules(proxy, name):
    """Nor does one that fits no path fail in the service."""
    for path, value in (("/x/metrics", "/x"), ("/metrics", "/x"), ("/", "/metrics")):
        response, body = proxy.ask(path, source="127.6.0.1", headers={name: value})
        assert response.status in (200, 403, 404)
        assert b"# HELP" not in body


def test_admin_routes_are_refused_from_outside_as_json(proxy):
    """Resetting the metrics is for this machine only; the refusal has the API's format."""
    response, body = proxy.ask("/api/metrics/reset", {}, source="127.6.0.1")
    assert (response.status, failure_of_api(response, body)) == (403, "forbidden")


def test_this_machine_may_read_the_metrics(proxy):
    """From loopback /metrics responds through the proxy; a reset requires the key even so."""
    response, body = proxy.ask("/metrics")
    assert response.status == 200
    assert b"avito_ai_model_status" in body
    assert proxy.ask("/api/metrics/reset", {})[0].status == 403


def test_plain_http_leads_to_https(proxy):
    """308 keeps method and body."""
    with socket.create_connection(("127.0.0.1", proxy.http_port), timeout=PATIENCE) as plain:
        plain.sendall(b"POST /api/v1/text/generate HTTP/1.1\r\nHost: ai.example\r\nContent-Length: 0\r\n\r\n")
        answer = plain.recv(65536)
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert b"https://ai.example/api/v1/text/generate" in answer


@pytest.mark.needs("curl")
def test_http2_is_spoken(proxy):
    """Clients that support HTTP/2 get it."""
    url = f"https://127.0.0.1:{proxy.port}/api/health"
    command = [
        "curl",
        "-sf",
        "--http2",
        "--cacert",
        str(proxy.certificate),
        "-w",
        "%{http_version}",
        "-o",
        os.devnull,
        url,
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout == "2"


def slow_client_times(seconds):
    """Return the edits that give a slow client so many seconds, by proxy."""
    return {
        "nginx": {
            "client_header_timeout 10s": f"client_header_timeout {seconds}s",
            "client_body_timeout 15s": f"client_body_timeout {seconds}s",
        },
        "haproxy": {
            "timeout http-request 10s": f"timeout http-request {seconds}s",
            "wait-for-body time 10s": f"wait-for-body time {seconds}s",
        },
    }


@pytest.mark.parametrize("seconds", [int(4 * PATIENCE), 1], ids=["kept", "let-go"])
def test_slow_clients_reach_no_copy_and_are_disconnected(new_proxy, copies, seconds):
    """A hundred half requests: others are answered while all are kept, no copy sees one, each is closed in its time.

    Where they are kept, a request that had to wait for their end would outlast the test's patience.
    """
    proxy = new_proxy(copies.ports, **slow_client_times(seconds))
    until(lambda: proxy.ask("/api/health/ready")[0].status == 200)
    head = b"POST /api/v1/text/generate HTTP/1.1\r\nHost: ai.example\r\nX-Request-ID: slow\r\n"
    bodies = head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    slow = [proxy.raw(head if number % 2 else bodies) for number in range(100)]
    assert proxy.ask(TEXT, {"prompt": "Hello"}, f"127.5.0.{1 + seconds % 2}")[0].status == 200
    for connection in slow:
        if seconds == 1:
            assert ended(connection)
        connection.close()
    assert not any("[slow]" in copy.log() for copy in copies.running)


def ended(connection):
    """Read until the other side closes it; False if it never does."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass  # a reset ends it as well
    return True


def test_one_address_cannot_hold_all_connections(new_proxy, copies):
    """An address with too many connections gets 429; another one is served."""
    few = {"nginx": {"limit_conn avito_ai_clients 100": "limit_conn avito_ai_clients 3"}, "haproxy": {"gt 100": "gt 3"}}
    proxy = new_proxy(copies.ports, **few)
    until(lambda: proxy.ask("/api/health/ready", source="127.4.0.3")[0].status == 200)
    for copy in copies.running:
        copy.say("hold")
    held = [proxy.connect("127.4.0.1") for _ in range(3)]
    for connection in held:
        connection.request("POST", CHAT, json.dumps(CHAT_STREAM), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
    response, body = proxy.ask(TEXT, {"prompt": "Hello"}, "127.4.0.1")
    assert (response.status, failure_of_api(response, body)) == (429, "rate_limit_exceeded")
    assert str(json.loads(body)["retry_after"]) == response.headers["Retry-After"]
    response, body = proxy.ask(CHAT, CHAT_STREAM, "127.4.0.1")
    assert (response.status, json.loads(body)["error"]["retry_after"]) == (429, 1)
    for copy in copies.running:
        (copy.folder / "hold").unlink()
    assert proxy.ask(TEXT, {"prompt": "Hello"}, "127.4.0.2")[0].status == 200
    for connection in held:
        connection.close()


def test_one_ipv6_network_cannot_hold_all_connections(new_proxy, copies):
    """Who owns one address has 2**64 of them: a /64 is one client, as for the service."""
    named = {
        "nginx": {
            "limit_conn avito_ai_clients 100;": "limit_conn avito_ai_clients 2; set_real_ip_from 127.0.0.0/8; "
            "real_ip_header X-From;"
        },
        "haproxy": {
            "gt 100": "gt 2",
            "http-request track-sc0": "http-request set-src req.hdr(x-from) if { req.hdr(x-from) -m found }\n"
            "    http-request track-sc0",
        },
    }
    proxy = new_proxy(copies.ports, **named)
    until(lambda: proxy.ask("/api/health/ready")[0].status == 200)
    for copy in copies.running:
        copy.say("hold")
    held = []
    for number in range(2):
        connection = proxy.connect("127.4.0.1")
        headers = {"Content-Type": "application/json", "X-From": f"2001:db8:0:1:{number}::{number}"}
        connection.request("POST", CHAT, json.dumps(CHAT_STREAM), headers)
        assert connection.getresponse().status == 200
        held.append(connection)
    for copy in copies.running:
        (copy.folder / "hold").unlink()
    for address, status in (("2001:db8:0:1:abcd::9", 429), ("2001:db8:0:2::1", 200), ("192.0.2.1", 200)):
        connection = proxy.connect("127.4.0.1")
        headers = {"Content-Type": "application/json", "X-From": address}
        connection.request("POST", TEXT, json.dumps({"prompt": "Hello"}), headers)
        assert connection.getresponse().status == status, address
        connection.close()
    for connection in held:
        connection.close()


@pytest.fixture(scope="module")
def limited(copies, tmp_path_factory):
    """nginx with the documented limit of requests, and a burst of three."""
    folder = tmp_path_factory.mktemp("limited")
    (folder / "avito-ai.d").mkdir()
    line = "limit_req zone=avito_ai_requests burst=3 nodelay;"
    assert line.replace("burst=3", "burst=20") in (ROOT / "docs/proxies.md").read_text()
    (folder / "avito-ai.d/limit.conf").write_text(line)
    slow = {"/etc/nginx/avito-ai.d": f"{folder}/avito-ai.d", "rate=10r/s": "rate=1r/m"}
    with Nginx(folder, copies.ports, slow) as proxy:
        yield proxy


@pytest.mark.needs("nginx")
def test_a_limit_of_requests_is_one_line(limited):
    """Beyond it nginx answers 429 in the shape of each API; probes and static files are free of it."""
    static = re.search(r"/static/\w+/style.css", limited.ask("/", source="127.2.0.9")[1].decode())[0]
    for path in ("/api/health/ready", "/api/health/live", static):
        assert {limited.ask(path, source="127.2.0.1")[0].status for _ in range(8)} == {200}
    answers = [limited.ask("/v1/models", source="127.2.0.1") for _ in range(5)]
    assert [response.status for response, _ in answers] == [200] * 4 + [429]
    refused = json.loads(answers[-1][1])["error"]
    assert (refused["code"], refused["retry_after"]) == ("rate_limit_exceeded", 1)
    response, body = limited.ask(TEXT, {"prompt": "x"}, "127.2.0.1")
    assert (response.status, failure_of_api(response, body)) == (429, "rate_limit_exceeded")
    assert json.loads(body)["message"] == "Too many requests at once from this address."
    assert limited.ask("/v1/models", source="127.2.0.2")[0].status == 200


@pytest.mark.needs("nginx")
def test_large_uploads_can_be_limited(copies, tmp_path):
    """By the lines of the containers: a body of 1 MB, or of unknown length, counts until its end, a small one never."""
    (tmp_path / "avito-ai.d").mkdir()
    zones = re.findall(r"limit_conn (avito_ai_large_bodies\w*) \d+;", (ROOT / "deploy/compose/nginx.sh").read_text())
    lines = [f"limit_conn {zone} {most};" for zone, most in zip(zones, (3, 2), strict=True)]
    (tmp_path / "avito-ai.d/bodies.conf").write_text("\n".join(lines))
    large, unknown, small = "Content-Length: 1000000", "Transfer-Encoding: chunked", "Content-Length: 999999"
    with (
        Nginx(tmp_path, copies.ports, {"/etc/nginx/avito-ai.d": f"{tmp_path}/avito-ai.d"}) as proxy,
        ExitStack() as held,
    ):

        def begun(length, source):
            """Return the answer to the head of a request, 100 if its body is read."""
            head = f"POST {CHAT} HTTP/1.1\r\nHost: ai.example\r\n{length}\r\nExpect: 100-continue\r\n\r\n"
            return held.enter_context(proxy.raw(head.encode(), source)).recv(65536).removeprefix(b"HTTP/1.1 ")

        answers = [begun(length, "127.3.0.1")[:3] for length in (large, unknown, small, large)]
        assert answers == [b"100", b"100", b"100", b"429"]
        assert begun(large, "127.3.0.2")[:3] == b"100"
        refused = begun(large, "127.3.0.3")
        assert (refused[:3], b"Too many connections or large uploads at once." in refused) == (b"429", True)
        assert proxy.ask(TEXT, {"prompt": "Hello"}, "127.3.0.1")[0].status == 200
        held.close()
        until(lambda: begun(large, "127.3.0.3")[:3] == b"100")


@pytest.mark.needs("nginx")
def test_nginx_logs_no_probe_that_succeeds(copies, tmp_path):
    """One that fails is logged, and so is everything else."""
    with Nginx(tmp_path, copies.ports) as proxy:
        for path in ("/api/health/live", "/api/health/ready", "/", "/api/health/nothing"):
            proxy.ask(path)
    log = (tmp_path / "avito-ai.access.log").read_text()
    assert re.findall(r'"GET (\S+) HTTP', log) == ["/", "/api/health/nothing"]


@pytest.mark.needs("nginx")
def test_nginx_compresses_what_is_text_and_no_stream(copies, tmp_path):
    """Pages, answers and descriptions; not what is small, the operator's pages, or a stream."""
    takes = {"Accept-Encoding": "gzip"}
    with Nginx(tmp_path, copies.ports) as proxy:
        coded = {
            path: proxy.ask(path, headers=takes)[0].headers["Content-Encoding"]
            for path in ("/", "/api/openapi.json", "/api/health/live", "/metrics", "/static/style.css")
        }
        stream, _ = proxy.ask(CHAT, CHAT_STREAM, headers=takes)
        page, body = proxy.ask("/", headers=takes)
    assert coded == {
        "/": "gzip",
        "/api/openapi.json": "gzip",
        "/api/health/live": None,
        "/metrics": None,
        "/static/style.css": "gzip",
    }
    assert (stream.status, stream.headers["Content-Encoding"]) == (200, None)
    assert page.headers.get_all("Vary")
    assert b"<title>" in gzip.decompress(body)


@pytest.mark.needs("nginx")
def test_handed_over_request_finds_the_one_copy_that_serves(copies, tmp_path):
    """One copy hands over, one is down: the third answers, whatever the order."""
    with SilentService(close=True, handing_over=True, refusing=True) as leaving:
        with Nginx(tmp_path / "nginx", [leaving.port, free_port(), copies.ports[0]]) as proxy:
            answers = [proxy.ask(TEXT, {"prompt": "Hello"}, f"127.3.0.{number}") for number in range(1, 13)]
        assert [response.status for response, _ in answers] == [200] * 12
        assert {len(response.headers.get_all("Cache-Control")) for response, _ in answers} == {1}
        assert leaving.requests, "no request met the copy that hands over"


@pytest.mark.needs("nginx")
def test_handed_over_generation_that_began_elsewhere_is_not_repeated(tmp_path):
    """If the second copy dies during the request, the client gets 502, and no third copy is tried."""
    with SilentService(close=True, handing_over=True) as first, SilentService(close=True, handing_over=True) as second:
        with Nginx(tmp_path / "nginx", [first.port, second.port]) as proxy:
            response, body = proxy.ask(TEXT, {"prompt": "x"})
        assert (response.status, failure_of_api(response, body)) == (502, "not_ready")
        assert len(first.requests + second.requests) == 2
