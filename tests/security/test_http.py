"""A real Gunicorn against requests that two servers could read differently; see docs/known-vulnerabilities.md."""

import contextlib
import json

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
# A chunked body that breaks off or is none; the first chunk of all but the first few is whole.
BROKEN_CHUNKS = {
    "no size": b"\r\n",
    "a size that is no number": b"xyz\r\n{}\r\n0\r\n\r\n",
    "a signed size": b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with a blank": b"2 2\r\n{}\r\n0\r\n\r\n",
    "a size with a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"1" + b"0" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "a bare line feed": b"2\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": b"2\r\n{}{}\r\n0\r\n\r\n",
    "a chunk with another end": b"2\r\n{}xx0\r\n\r\n",
    "an extension of control characters": b"2;\x00\r\n{}\r\n0\r\n\r\n",
    "an extension with a bare carriage return": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "an endless extension": b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    "a trailer without a colon": b"2\r\n{}\r\n0\r\nnonsense\r\n\r\n",
    "endless trailers": b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
}


KEY = "sk-4f9Qm2Zx7LrT0vBw8KcY3nHd"  # of no service  # pragma: allowlist secret
# A request that names it; which of these the parser takes is another matter.
WITH_A_KEY = {
    "a field": b"Authorization: Bearer %b\r\n",
    "a field without its colon": b"Authorization Bearer %b\r\n",
    "a folded field": b"Authorization: Bearer\r\n %b\r\n",
    "a field of a strange name": b"Authorization(%b): Bearer\r\n",
    "a cookie": b"Cookie: avito_ai_operator=%b\r\n",
    "the id of a request": b"X-Request-ID: a %b\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The whole application over models that answer at once, with a short time-out for bodies that do not arrive."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"SEND_TIMEOUT": "2", "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "DEBUG"}
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
        return received_from(connection)


def received_from(connection):
    """Return all that comes back until the connection is closed."""
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


@pytest.mark.parametrize("path", [b"/api/v1/text/generate", b"/v1/chat/completions"])
@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_a_broken_chunked_body_is_the_clients_mistake(server, path, body):
    """400 in the API's own shape with a request id, then the end of the connection; nothing is logged but a line."""
    head = HEAD.replace(b"/api/v1/text/generate", path) + b"Transfer-Encoding: chunked\r\n\r\n"
    with server.connect(head) as connection:
        with contextlib.suppress(OSError):  # the answer comes before all of it is sent
            connection.sendall(body + SECOND)
        received = received_from(connection)
    head, _, answer = received.partition(b"\r\n\r\n")
    assert (head.split(b" ")[1], received.count(b"HTTP/1.1 ")) == (b"400", 1)
    assert b"X-Request-ID: " in head
    assert json.loads(answer)["error"]
    assert "Traceback" not in server.log()
    assert "[ERROR]" not in server.log()


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
    """Lines and their number have limits, which apply while the head arrives: none of these heads has an end."""
    with server.connect(b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n") as connection:
        with contextlib.suppress(OSError):  # the connection is closed before all of it has arrived
            connection.sendall(head)
        assert received_from(connection).split(b" ")[1] == b"431"
    assert answers(server)


@pytest.mark.parametrize("field", WITH_A_KEY.values(), ids=WITH_A_KEY)
@pytest.mark.parametrize("path", [b"/api/metrics", b"/v1/models", b"/api/health/live?key=%b", b"/nowhere"])
def test_no_part_of_a_key_is_logged(server, path, field):
    """Not the beginning of it either, whatever is wrong with the request, in the most talkative log."""
    head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + field + b"\r\n"
    before = len(server.log())
    received = exchange(server, head.replace(b"%b", KEY.encode()))
    assert received.startswith(b"HTTP/1.1 ")
    until(lambda: path.partition(b"?")[0].decode() in server.log()[before:])  # its access line
    assert not any(KEY[start : start + 5] in server.log()[before:] for start in range(len(KEY) - 4))


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
