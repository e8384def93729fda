"""A real Gunicorn against requests that two servers could read differently; see docs/known-vulnerabilities.md."""

import contextlib

import psutil
import pytest

from tests.e2e.gunicorn_process import GunicornProcess, until

SECOND = b"GET /api/health/live HTTP/1.1\r\nHost: second\r\nConnection: close\r\n\r\n"
HEAD = b"POST /api/v1/text/generate HTTP/1.1\r\nHost: first\r\nContent-Type: application/json\r\n"
CHUNKED = b"0\r\n\r\n"
# Framing that a server must not guess at. What follows each is a second request, for a server that reads it so.
AMBIGUOUS = {
    "both, chunked first": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "both, length first": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 0\r\n",
    "a list of lengths": b"Content-Length: 5, 0\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "chunked and then another": b"Transfer-Encoding: chunked, identity\r\n",
    "a quoted coding": b'Transfer-Encoding: "chunked"\r\n',
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n",
    "a tab for a colon's blank": b"Transfer-Encoding:\x0bchunked\r\n",
    "a folded line": b"Content-Length:\r\n 5\r\n",
    "an underscore": b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\nContent-Length: 99999\r\n",
    "a bare line feed": b"X: y\nTransfer-Encoding: chunked\r\n",
    "a NUL": b"X: \x00\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The whole application over models that answer at once, with a short time-out for bodies that do not arrive."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"SEND_TIMEOUT": "2", "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    with GunicornProcess(folder, app="tests.e2e.answering_app:app", **settings) as process:
        until(lambda: answers(process))
        yield process


def answers(server):
    """Return whether the service answers."""
    with contextlib.suppress(OSError, ValueError):
        return server.get("/api/health/live", timeout=5)[0] == 200
    return False


def exchange(server, sent):
    """Send bytes and return all that comes back until the connection is closed."""
    with server.connect(sent) as connection:
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                received += data
        return received


@pytest.mark.parametrize("framing", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_body_of_unclear_length_ends_the_connection(server, framing):
    """What follows is never read as a request: there is at most one response, an error, then the connection closes."""
    received = exchange(server, HEAD + framing + b"\r\n" + CHUNKED + SECOND)
    assert received.count(b"HTTP/1.1 ") <= 1
    assert b"HTTP/1.1 200" not in received
    assert answers(server)


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * (4 * 1024 * 1024) + b"\r\n",
        b"".join(b"X%d: y\r\n" % number for number in range(50_000)),
        b"Cookie: " + b"a=b; " * 200_000 + b"\r\n",
    ],
    ids=["one long line", "many lines", "one long cookie"],
)
def test_a_head_is_bounded(server, head):
    """Lines and their number have limits, which apply while the head arrives and not only once it is complete."""
    with server.connect(b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n") as connection:
        with contextlib.suppress(
            OSError
        ):  # the response is sent and the connection closed before all of it has arrived
            connection.sendall(head + b"\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b" 200 " not in connection.recv(65536)
    assert answers(server)


def test_one_socket_listens_at_the_configured_address_only(server):
    """No worker, queue or debugger listens beside the service."""
    (master,) = server.masters()
    processes = [psutil.Process(master), *psutil.Process(master).children(recursive=True)]
    listening = {
        entry.laddr
        for process in processes
        for entry in process.net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", server.port)}
