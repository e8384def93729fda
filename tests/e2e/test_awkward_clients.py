"""Every route of the table, on a real Gunicorn, asked by clients that send and read in awkward ways."""

import contextlib
import http.client
import json
import socket
import struct
import time

import pytest
from werkzeug.test import EnvironBuilder

from edge.failure_shapes import FailureShape, shape_of
from edge.route_table import ROUTES
from tests.e2e.gunicorn_process import GunicornProcess, alive, until
from tests.good_requests import good_request, real_path
from tests.integrity import holdings

pytestmark = pytest.mark.slow

NAMES = sorted(ROUTES)
READS = [name for name in NAMES if name.startswith("GET ")]
BODIES = [name for name in NAMES if ROUTES[name].bodies]
OFF = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "HEALTH_LIMIT_PER_MINUTE": "0"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The whole application, over models that answer at once."""
    folder = tmp_path_factory.mktemp("service")
    with GunicornProcess(folder, app="tests.e2e.answering_app:app", **OFF) as process:
        until(lambda: alive(process))
        yield process


def bytes_of(name, close=False):
    """Return a good request to a route, as it is sent."""
    method, _ = name.split()
    options = good_request(name.split()[1]) if ROUTES[name].bodies else {}
    environ = EnvironBuilder(real_path(name), method=method, **options).get_environ()
    body = environ["wsgi.input"].read()
    head = [f"{method} {environ['PATH_INFO']} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    head += [f"Content-Type: {environ['CONTENT_TYPE']}"] if body else []
    head += ["Connection: close"] if close else []
    return "\r\n".join([*head, "", ""]).encode() + body


class Reading:
    """What `http.client` reads responses from, one after another: a connection, some bytes at a time."""

    def __init__(self, file):
        self._file = file

    def makefile(self, *_):
        return self

    def close(self):
        """Do nothing: another response may follow."""

    def __getattr__(self, name):
        return getattr(self._file, name)


@contextlib.contextmanager
def asking(process, data=b"", at_once=65536):
    """Send bytes on a connection of their own; yield it, and what its responses are read from."""
    with contextlib.closing(process.connect(data)) as connection, connection.makefile("rb", buffering=at_once) as file:
        yield connection, Reading(file)


def answer(reading, name):
    """Read one whole response of a route; return its status and its body."""
    response = http.client.HTTPResponse(reading, method=name.split()[0])
    response.begin()
    return response.status, response.read()  # which fails on one that breaks off


def plainly(process, name):
    """Return the status of the answer to a client that does nothing of note."""
    with asking(process, bytes_of(name)) as (_, reading):
        return answer(reading, name)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_sends_and_reads_in_crumbs_is_answered_like_any_other(service, name):
    """A few bytes in each packet, and the response read byte by byte."""
    data = bytes_of(name)
    with asking(service, at_once=1) as (connection, reading):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), 7):
            connection.send(data[at : at + 7])
        status, _ = answer(reading, name)
    assert status == plainly(service, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_has_closed_its_half_gets_the_whole_answer(service, name):
    """As `nc -N` and programs that use `shutdown` do."""
    with asking(service, bytes_of(name)) as (connection, reading):
        connection.shutdown(socket.SHUT_WR)
        status, _ = answer(reading, name)
        assert reading.read() == b""
    assert status == plainly(service, name)


@pytest.mark.parametrize("option", ["TE, close", "keep-alive , Close", "TE\r\nConnection: close"])
@pytest.mark.parametrize(
    "name", ["GET /api/health/live", "GET /", "POST /v1/completions", "POST /api/v1/text/generate"]
)
def test_a_client_that_closes_in_a_list_is_told_so_and_closed(service, name, option):
    """The answer says it, and nothing that follows on the connection is answered (RFC 9112, 9.6)."""
    request = bytes_of(name)
    closing = request.replace(b"\r\n\r\n", f"\r\nConnection: {option}\r\n\r\n".encode(), 1)
    with contextlib.closing(service.connect(closing + request)) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert (received.count(b"HTTP/1.1 200 OK"), received.count(b"Connection: close")) == (1, 1)


@pytest.mark.parametrize("name", READS)
def test_pipelined_requests_are_answered_one_by_one(service, name):
    """And the last one says that it is the last."""
    with asking(service, bytes_of(name) * 3 + bytes_of(name, close=True)) as (_, reading):
        statuses = [answer(reading, name)[0] for _ in range(4)]
        assert reading.read() == b""
    assert statuses == [plainly(service, name)] * 4


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_leaves_at_once_leaves_nothing_behind(service, name):
    """It resets its connection behind its request, or closes it unread; several at a time.

    Files apart: the database keeps the connections open that some requests at once have needed.
    """
    plainly(service, name)
    before = holdings(service)
    for reset in (True, False):
        for connection in [service.connect(bytes_of(name)) for _ in range(8)]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))
            connection.close()
    assert plainly(service, name) < 500
    until(lambda: holdings(service).beyond(before).keys() <= {"files"})


@pytest.mark.parametrize("missing", [1, 3])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_ends_early_is_a_typed_400(service, name, missing):
    """The client has closed its half, so that the rest can never come."""
    with asking(service, bytes_of(name)[:-missing]) as (connection, reading):
        connection.shutdown(socket.SHUT_WR)
        status, body = answer(reading, name)
    assert status == 400
    assert "The request ended before it was whole." in body.decode()
    assert shape_of(real_path(name)) is FailureShape.PAGE or "error" in json.loads(body)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_ends_early_is_answered_too(service, name):
    """Nobody waits for the rest of it."""
    head = bytes_of(name).partition(b"\r\n\r\n")[0]
    with asking(service, head) as (connection, reading):
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in reading.readline()
    assert alive(service)


def test_requests_that_do_not_arrive_hold_no_thread_and_are_told_so(tmp_path):
    """More of them than there are threads; after SEND_TIMEOUT each gets its typed answer and is disconnected."""
    few = {"MAX_NUM_SEQS": "1", "MAX_WAITING": "0", "THREADS": "34"}
    with GunicornProcess(tmp_path, app="tests.e2e.answering_app:app", SEND_TIMEOUT="2", **few, **OFF) as process:
        until(lambda: alive(process))
        data, began = bytes_of("POST /v1/chat/completions"), time.monotonic()
        with contextlib.ExitStack() as stack:
            halves = [stack.enter_context(asking(process, data[: len(data) * half // 40])) for half in range(1, 40)]
            assert plainly(process, "GET /api/health") == 200
            answers = [answer(reading, "POST /") for _, reading in halves]
        assert time.monotonic() - began > 2
        assert {status for status, _ in answers} == {408}
        assert all("did not arrive in time" in body.decode() for _, body in answers)
        assert "Traceback" not in process.log()
