"""Clients that are slow, silent or lazy delay no other client, on a real Gunicorn."""

import http.client
import json

import pytest

from tests.e2e.gunicorn_process import PATIENCE

pytestmark = pytest.mark.slow

FEW_THREADS = {"MAX_NUM_SEQS": "1", "MAX_WAITING": "0", "THREADS": "34"}
# A request that had to wait until a slow client is disconnected would fail the test: none waits longer than PATIENCE.
NEVER = str(int(4 * PATIENCE))
ONE_REQUEST = b"GET /state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def start(gunicorn):
    """Start a service with the minimum number of threads."""

    def start(**settings):
        server = gunicorn(**FEW_THREADS, **settings)
        server.say("load")
        server.ready()
        return server

    return start


@pytest.fixture
def patient(start):
    """A service that disconnects no client during a test."""
    return start(SEND_TIMEOUT=NEVER, DRAIN_SECONDS=NEVER)


@pytest.fixture
def server(start):
    """A service with short time-outs."""
    return start(SEND_TIMEOUT="2")


def test_silent_connections_hold_no_thread(patient):
    """More silent connections than there are threads do not delay a request."""
    silent = [patient.connect() for _ in range(60)]
    assert patient.get("/state")[0] == 200
    for connection in silent:
        connection.close()


def test_client_that_does_not_close_delays_no_other(patient):
    """After `Connection: close` a client may keep its end open; the next ones are accepted anyway."""
    lazy = [patient.connect(ONE_REQUEST) for _ in range(40)]
    for connection in lazy:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert patient.get("/state")[0] == 200
    for connection in lazy:
        connection.close()


def test_response_that_is_not_read_is_dropped(server):
    """A client that stops reading its stream frees its thread after SEND_TIMEOUT, and the stream is closed."""
    connection = server.connect(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    server.wait_for("flood-ended")
    assert "did not read its response for 2 s" in server.log()
    assert "Traceback" not in server.log()
    connection.close()


def test_kept_connection_serves_again_and_ends_with_the_service(patient):
    """Keep-alive works, and an idle kept connection does not hold up the stop."""
    kept = http.client.HTTPConnection("127.0.0.1", patient.port, timeout=PATIENCE)
    for _ in range(3):
        kept.request("GET", "/state")
        assert json.loads(kept.getresponse().read())["ready"]
        assert kept.sock is not None
    silent = patient.connect()
    patient.process.terminate()
    assert patient.ended() == 0
    kept.close()
    silent.close()
