"""What is no HTTP is refused in the shape of the API, counted and logged once, and never quoted, on a real Gunicorn."""

import json
import socket

import pytest

from tests.e2e.gunicorn_process import GunicornProcess, until

PAGE = "https://page.example"
MARKED = "MARKEDTEXT"
KEY = f"Authorization: Bearer {MARKED}\r\n".encode()
END = b"\r\n\r\n"
API, OPENAI, OURS, NOWHERE = "/api/v1/text/generate", "/v1/chat/completions", "/avibe", ""
ANTHROPIC = "/v1/messages"
LONG = b"x" * 9000

# Each is a request to a path, with a key somewhere in it; and the status of its refusal.
REQUESTS = {
    "a field without its colon": (b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization Bearer MARKEDTEXT" + END, 400),
    "a field of another coding": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"\xff\xfe: MARKEDTEXT" + END, 400),
    "a control character": (b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer MARKEDTEXT\x01" + END, 400),
    "a zero byte": (b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer MARKEDTEXT\x00" + END, 400),
    "a folded field": (b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n MARKEDTEXT" + END, 400),
    "a space before the colon": (b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer MARKEDTEXT" + END, 400),
    "a bare line feed": (b"POST %b HTTP/1.1\r\nHost: a\nAuthorization: Bearer MARKEDTEXT\n\n", 400),
    "two lengths": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"Content-Length: 1\r\nContent-Length: 2" + END, 400),
    "a length that is none": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"Content-Length: MARKEDTEXT" + END, 400),
    "an unknown version": (b"POST %b HTTP/3.9\r\nHost: a\r\n" + KEY + b"\r\n", 400),
    "no version": (b"POST %b\r\nHost: a\r\n" + KEY + b"\r\n", 400),
    "a version that is a key": (b"POST %b MARKEDTEXT\r\nHost: a\r\n\r\n", 400),
    "a method that is none": (b"PO(ST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n", 400),
    "a long line": (b"POST %b?" + LONG + b" HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n", 414),
    "a long field": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"X: " + LONG + END, 431),
    "many fields": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"A: MARKEDTEXT\r\n" * 200 + b"\r\n", 431),
    "a head without end": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"A: MARKEDTEXT\r\n" * 6000, 431),
    "a line without end": (b"POST %b" + b"?MARKEDTEXT" * 7000, 414),
    "an expectation": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"Expect: MARKEDTEXT" + END, 417),
    "an unknown coding": (b"POST %b HTTP/1.1\r\nHost: a\r\n" + KEY + b"Transfer-Encoding: MARKEDTEXT" + END, 501),
}
PATHLESS = {
    "nothing but words": b"MARKEDTEXT and more\r\n\r\n",
    "a field first": b"Authorization: Bearer MARKEDTEXT\r\nGET / HTTP/1.1\r\n\r\n",
    "a handshake": b"\x16\x03\x01\x02\x00\x01\x00MARKEDTEXT",
    "empty lines": b"\r\n\r\n\r\nMARKEDTEXT\r\n\r\n",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The application at its most talkative, for the pages of one origin."""
    settings = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "DEBUG", "ALLOWED_ORIGINS": PAGE}
    folder = tmp_path_factory.mktemp("service")
    with GunicornProcess(folder, app="tests.e2e.answering_app:app", **settings) as process:
        until(lambda: answers(process))
        yield process


def answers(process):
    try:
        return process.get("/api/health/live", timeout=2)[0] == 200
    except OSError:
        return False


def send(process, request):
    """Send bytes and return status, headers and body of the response, and that the connection was closed behind it."""
    connection = process.connect(request)
    received = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.close()
    head, _, body = received.partition(END)
    line, *fields = head.decode().split("\r\n")
    return int(line.split()[1]), dict(field.split(": ", 1) for field in fields), body


def counted(process, status):
    """Return how many requests were counted with this status."""
    connection = process.connect(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    connection.close()
    start = "avito_ai_http_requests_total{"
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'status="{status}"' in line)


@pytest.mark.parametrize("path", [API, OPENAI, ANTHROPIC, OURS])
@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_no_http_is_refused_in_the_shape_of_its_path(service, name, path):
    """With its status, a request id and the headers that a page of an allowed origin needs to read it."""
    request, expected = REQUESTS[name]
    before = counted(service, expected)
    request = request.replace(b"%b", path.encode(), 1).replace(
        b"Host: a", b"Origin: " + PAGE.encode() + b"\r\nHost: a", 1
    )
    status, headers, body = send(service, request)
    assert status == expected
    assert headers["Connection"] == "close"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert int(headers["Content-Length"]) == len(body)
    request_id = headers["X-Request-ID"]
    assert_shape(path, headers, body, request_id)
    if b"Origin" in request:
        assert headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-ID" in headers["Access-Control-Expose-Headers"]
    assert counted(service, expected) == before + 1
    lines = [line for line in service.log().splitlines() if f"[{request_id}]" in line]
    assert len(lines) == 1
    assert f" {status} " in lines[0]
    assert path in lines[0]


def assert_shape(path, headers, body, request_id):
    if path == API:
        failure = json.loads(body)
        assert failure.pop("message").endswith(".")
        assert failure == {"error": "validation_error", "request_id": request_id}
    elif path == OPENAI:
        error = json.loads(body)["error"]
        assert error["message"].endswith(".")
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "validation_error", None)
    elif path == ANTHROPIC:
        failure = json.loads(body)
        assert failure["error"].pop("message").endswith(".")
        assert failure["error"].pop("type") in ("invalid_request_error", "api_error")
        assert failure == {"type": "error", "error": {}, "request_id": request_id}
        assert headers["Request-ID"] == request_id
    else:
        assert headers["Content-Type"].startswith("text/plain")
        assert request_id in body.decode()
    assert MARKED not in body.decode()


@pytest.mark.parametrize("name", PATHLESS)
def test_without_a_path_the_refusal_is_json(service, name):
    """The shape of /api, since only programs send such things."""
    status, headers, body = send(service, PATHLESS[name])
    assert status == 400
    assert json.loads(body)["request_id"] == headers["X-Request-ID"]


def test_a_foreign_origin_cannot_read_a_refusal(service):
    """As with every other response."""
    request = b"POST /api/x HTTP/1.1\r\nHost: a\r\nOrigin: https://other.example\r\nbroken\r\n\r\n"
    assert "Access-Control-Allow-Origin" not in send(service, request)[1]


def test_head_gets_no_body(service):
    """Its Content-Length is that of the body it would have had."""
    status, headers, body = send(service, b"HEAD /api/health HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n")
    assert (status, body) == (400, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("name", ["X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Ssl", "Forwarded"])
@pytest.mark.parametrize("value", ["on", "off", "1", "https", "ssl", "proto=https"])
def test_no_proxys_way_to_name_the_scheme_is_malformed(service, name, value):
    """Whatever other field it stands beside, for both ways in which a head is read."""
    fields = f"Host: a\r\nX-Forwarded-Proto: https\r\n{name}: {value}\r\nConnection: close\r\n"
    body = "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n" + '{"prompt":"hi"}'
    assert send(service, f"GET /api/health/live HTTP/1.1\r\n{fields}\r\n".encode())[0] == 200
    assert send(service, f"POST {API} HTTP/1.1\r\n{fields}{body}".encode())[0] == 200


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "h2c", "HTTP/2.0, websocket"])
@pytest.mark.parametrize("path", ["/", "/api/health/live", "/v1/models", "/nowhere"])
def test_an_offer_of_another_protocol_is_passed_over(service, path, protocol):
    """The answer is that of HTTP (RFC 9110, section 7.8)."""
    lines = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\n"
    wanted = send(service, f"{lines}\r\n".encode())[0]
    offered = f"{lines}Upgrade: {protocol}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    assert send(service, offered.encode())[0] == wanted == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("wrong", ["broken", "Expect: x", "X: " + "x" * 9000, "Content-Length: x"])
def test_a_clients_id_is_kept(service, wrong):
    """In header, body and log; the request counts as one that failed, by its route."""
    head = f"POST {API} HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-{len(wrong)}\r\n{wrong}\r\n\r\n"
    before = failed(service)
    _, headers, body = send(service, head.encode())
    assert headers["X-Request-ID"] == json.loads(body)["request_id"] == f"mine-{len(wrong)}"
    (line,) = [line for line in service.log().splitlines() if f"[mine-{len(wrong)}]" in line]
    assert f"POST {API} " in line
    assert failed(service) == before + 1


def failed(process):
    """Return how many generation requests have failed."""
    return process.get("/api/metrics")[1]["application"]["failed_requests"]


@pytest.mark.parametrize("path", ["/%61pi/x", "//api/x", "http://a/api/x", "/api/x?y=MARKEDTEXT", "/api"])
def test_a_path_is_read_as_the_application_reads_it(service, path):
    """Encoded, doubled or absolute, and never with its query."""
    _, headers, body = send(service, f"GET {path} HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n".encode())
    assert json.loads(body)["request_id"] == headers["X-Request-ID"]


@pytest.mark.parametrize("cut", [30, 60, 90, 120])
@pytest.mark.parametrize("end", [socket.SHUT_WR, None])
def test_a_request_that_breaks_off_is_not_quoted(service, cut, end):
    """Its client is told that it broke off, if it waits for an answer and has not left."""
    request = (
        b"POST /api/v1/text/generate HTTP/1.1\r\n" + KEY + b"X: MARKEDTEXT\r\nContent-Length: 90\r\n\r\nMARKEDTEXT"
    )
    connection = service.connect(request[:cut])
    if end is not None:
        connection.shutdown(end)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert MARKED.encode() not in answer
    connection.close()
    assert MARKED not in service.log()


def test_nothing_that_was_sent_is_in_the_log(service):
    """At DEBUG, after everything above: no key, no library's own text, no stack."""
    for request, _ in REQUESTS.values():
        send(service, request.replace(b"%b", API.encode(), 1))
    for request in PATHLESS.values():
        send(service, request)
    send(service, b"POST /api/v1/text/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + KEY
         + b"Transfer-Encoding: chunked\r\n\r\nMARKEDTEXT\r\n")  # fmt: skip
    for word in (MARKED, "Bearer", "Traceback", "Invalid HTTP", "<html"):
        assert word not in service.log()
