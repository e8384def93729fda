"""A worker that has run out of descriptors or disk serves on, on a real Gunicorn whose limits are lowered."""

import json
import resource
import socket
import sys
from pathlib import Path

import pytest

from tests.e2e.gunicorn_process import GunicornProcess, alive, until
from tests.e2e.test_clients import INTERIM, TEXT, ask, diary, moment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
SPARE = 6
NEVER = "600"
BIG = 3 * 2**20


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """The application, whose answers stay open, with limits off and much patience."""
    settings = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "SEND_TIMEOUT": NEVER}
    with GunicornProcess(tmp_path_factory.mktemp("few"), app="tests.e2e.held_app:app", **settings) as process:
        until(lambda: alive(process))
        yield process


@pytest.fixture
def service(process):
    """The same, whose limit is restored in the end; still the same worker."""
    worker = worker_of(process)
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    yield process
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    assert worker_of(process) == worker
    assert alive(process)


def worker_of(process):
    """Return the pid of the only worker."""
    return int(Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()[0])


def limit_descriptors(pid, spare):
    """Let a process open `spare` more descriptors than it has now, or fewer; those it has below may still be closed."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    first_free = next(number for number in range(len(taken) + 1) if number not in taken)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free + spare, hard))


def test_silent_connections_that_take_every_descriptor(service):
    """The worker lives, a request in flight gets its answer, and new ones are served though nobody closes."""
    in_flight = ask(service, "in-flight")
    limit_descriptors(worker_of(service), SPARE)
    silent = [service.connect() for _ in range(8 * SPARE)]
    until(lambda: "No connection can be accepted" in service.log())
    assert alive(service)
    service.say("finish-in-flight")
    assert in_flight.recv(65536).startswith(b"HTTP/1.1 200 OK")
    for connection in silent:
        connection.close()
    for _ in range(20):
        assert alive(service)
    assert service.log().count("No connection can be accepted") == 1
    in_flight.close()


def test_a_body_without_a_descriptor_is_refused(service):
    """It would lie in a file: 503 with Retry-After, while small requests are served on the descriptors there are."""
    small = service.connect()

    def refused():
        # A connection that the service closes meanwhile leaves its descriptor to the body.
        _, hard = resource.prlimit(worker_of(service), resource.RLIMIT_NOFILE)
        resource.prlimit(worker_of(service), resource.RLIMIT_NOFILE, (hard, hard))
        with service.connect() as big:
            assert alive(service)
            limit_descriptors(worker_of(service), 0)
            post(big, "/v1/chat/completions", b"x" * BIG)
            answer = response(big)
        return answer if answer[0] == 503 else None

    _, headers, body = until(refused)
    assert int(headers["retry-after"]) > 0
    assert json.loads(body)["error"]["code"] == "overloaded"
    post(small, TEXT, b'{"prompt": "Hello"}', "small")
    moment(service, "began", "small")
    service.say("finish-small")
    assert response(small)[0] == 200
    small.close()


@pytest.mark.parametrize("method", ["GET /metrics", "GET /api/metrics", "GET /", "GET /static/style.css"])
def test_nothing_that_needs_a_descriptor_is_a_500(service, method):
    """It succeeds without, or is 503."""
    connection = service.connect()
    until(lambda: alive(service))
    limit_descriptors(worker_of(service), 0)
    connection.sendall(f"{method} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert response(connection)[0] in (200, 404, 503)
    connection.close()


def test_a_client_that_leaves_is_noticed_without_a_descriptor(service):
    """The watch of clients needs none."""
    connection = ask(service, "leaves")
    limit_descriptors(worker_of(service), 0)
    connection.close()
    moment(service, "aborted", "leaves")


def test_a_half_closed_client_is_waited_for_without_a_descriptor(service):
    """Nor does its probe."""
    connection = ask(service, "half")
    limit_descriptors(worker_of(service), 0)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(len(INTERIM)) == INTERIM
    service.say("finish-half")
    assert b"200 OK" in b"".join(iter(lambda: connection.recv(65536), b""))
    assert ("aborted", "half") not in diary(service)
    connection.close()


def post(connection, path, body, request_id="big"):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {request_id}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def response(connection):
    """Return status, headers and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(65536))
        assert more, received
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode().lower().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    while len(body) < int(headers.get("content-length", 0)):
        body += (more := connection.recv(65536))
        assert more, body
    return int(line.split()[1]), headers, body
