"""Clients of the whole application on a real Gunicorn: disconnects, and requests at capacity."""

import base64
import functools
import http.client
import json
import re
import socket
import struct
import time

import pytest

from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, alive, until
from tests.fakes import image_bytes, multipart
from tests.timing import once_within

pytestmark = pytest.mark.slow

TEXT, VISION = "/api/v1/text/generate", "/api/v1/image/analyze"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The application, answering, with limits off."""
    folder = tmp_path_factory.mktemp("service")
    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "DEBUG"}
    with GunicornProcess(folder, app="tests.e2e.held_app:app", **off) as process:
        until(lambda: alive(process))
        yield process


def diary(process):
    """Return the moments of all events so far: (event, request id) to seconds."""
    path = process.folder / "diary"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {(line[0], line[1]): float(line[2]) for line in lines if len(line) == 3}


def moment(process, event, request_id):
    """Wait for an event and return when it was."""
    return until(lambda: diary(process).get((event, request_id)))


def ask(process, request_id, path=TEXT, version="1.1", **fields):
    """Send a request whose answer stays open; return the connection once the model has it."""
    image = {"image": f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"} if path == VISION else {}
    body = json.dumps({"prompt": "Hello", **image, **fields})
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nX-Request-ID: {request_id}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = process.connect((head + body).encode())
    moment(process, "began", request_id)
    return connection


@functools.cache
def big_picture():
    """Return body and headers that upload an image whose pixels would take long to decode."""
    form = multipart([("prompt", "What?"), ("image", (image_bytes(size=(6000, 4000)), "a.png"))])
    return form["data"], {"Content-Type": form["content_type"]}


def close(connection):
    connection.close()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close_with_more_sent(connection):
    connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connection.close()


@pytest.mark.parametrize("leave", [close, reset, close_with_more_sent])
def test_a_client_that_leaves_has_its_answer_aborted_within_100_ms(service, leave):
    """However it disconnects; the capacity is free again and the thread serves others."""

    def attempt(number):
        request_id = f"{leave.__name__}-{number}"
        connection = ask(service, request_id)
        left = time.monotonic()
        leave(connection)
        return moment(service, "aborted", request_id) - left

    once_within(0.1, attempt)


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def half_closed(process, request_id, **options):
    """Return the connection of a client that has sent its last byte and waits for its answer."""
    connection = ask(process, request_id, **options)
    connection.shutdown(socket.SHUT_WR)
    return connection


@pytest.mark.parametrize(("path", "fields"), [(TEXT, {}), (VISION, {}), (TEXT, {"stream": True})])
def test_a_half_closed_client_gets_its_answer(service, path, fields):
    """It receives interim responses, or comments in a stream, and then the answer, whole."""
    request_id = f"half-{path.rpartition('/')[2]}-{len(fields)}"
    connection = half_closed(service, request_id, path=path, **fields)
    received = b""
    while received.count(INTERIM) + received.count(b": keep-alive\n\n") < 3:
        received += (more := connection.recv(65536))
        assert more, received
    service.say(f"finish-{request_id}")
    received += b"".join(iter(lambda: connection.recv(65536), b""))
    connection.close()
    answer = received.replace(INTERIM, b"")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"An answer." in answer
    assert ("aborted", request_id) not in diary(service)
    until(lambda: f"[{request_id}] POST {path} 200" in service.log())


def test_a_client_of_the_standard_library_may_half_close(service):
    """It passes over however many interim responses."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    connection.request("POST", TEXT, '{"prompt": "Hello"}', {"Content-Type": "application/json", "X-Request-ID": "lib"})
    connection.sock.shutdown(socket.SHUT_WR)
    moment(service, "began", "lib")
    until(lambda: connection.sock.recv(4 * len(INTERIM), socket.MSG_PEEK).count(INTERIM) >= 3)
    service.say("finish-lib")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@pytest.mark.parametrize("leave", [close, reset])
def test_a_half_closed_client_that_leaves_has_its_answer_aborted(service, leave, fields):
    """Its end sends nothing more; the next probe is answered with a reset."""
    request_id = f"half-then-{leave.__name__}-{len(fields)}"
    connection = half_closed(service, request_id, **fields)
    assert connection.recv(1)
    leave(connection)
    moment(service, "aborted", request_id)


def test_a_client_of_http_1_0_that_half_closes_counts_as_left(service):
    """It does not know interim responses, so it cannot be told from one that left."""
    connection = half_closed(service, "half-old", version="1.0")
    moment(service, "aborted", "half-old")
    assert b" 499 " in connection.recv(65536)
    connection.close()


def test_overload_is_answered_in_under_50_ms(service):
    """At capacity, a further image is refused at once, probes answer, and freed capacity is used again."""
    held = [ask(service, f"held-{number}", VISION) for number in range(4)]

    def attempt(_):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
        connection.request("POST", VISION, *big_picture())
        sent = time.monotonic()
        response = connection.getresponse()
        took = time.monotonic() - sent
        assert (response.status, json.loads(response.read())["error"]) == (503, "overloaded")
        assert int(response.headers["Retry-After"]) > 0
        connection.close()
        return took

    once_within(0.05, attempt)
    assert service.get("/api/health/ready")[0] == 200
    for connection in held:
        connection.close()
    for number in range(4):
        moment(service, "aborted", f"held-{number}")
    ask(service, "after", VISION).close()
    moment(service, "aborted", "after")


def test_an_aborted_answer_is_logged_as_what_it_was(service):
    """Status 499, as in nginx, for a client that disconnected, without a traceback."""
    ask(service, "logged").close()
    until(lambda: f"[logged] POST {TEXT} 499" in service.log())
    assert "Traceback" not in service.log()


def test_early_refusal_reaches_a_client_that_still_sends(service):
    """A request refused from its head alone is still read to its end, so that no reset precedes the response."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    connection.request("POST", TEXT, b"x" * (20 * 2**20), {"Content-Type": "text/plain"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]) == (415, "unsupported_media_type")
    connection.close()


def test_what_was_loaded_is_exempt_from_garbage_collection(service):
    """A full collection does not visit what the imports and the models left: it would pause every stream."""
    exempt = until(lambda: re.search(r"(\d+) objects are exempt from garbage collection", service.output.read_text()))
    assert int(exempt[1]) > 10_000
