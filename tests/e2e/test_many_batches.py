"""More batches than there are threads, on a real Gunicorn: others are served beside them."""

import json
import re
import urllib.request

import pytest

from tests.e2e.gunicorn_process import GunicornProcess, alive, until
from tests.e2e.test_clients import TEXT, VISION, ask

SLOTS, WAITING = 20, 2
MOST = SLOTS + 16
THREADS = 2 * (SLOTS + WAITING) + MOST + 32


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The application, whose answers stay open, with few threads and limits off."""
    settings = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "TRUSTED_PROXIES": "1"}
    settings |= {"MAX_NUM_SEQS": str(SLOTS), "MAX_WAITING": str(WAITING), "HELD_ANSWERS": str(SLOTS + WAITING)}
    with GunicornProcess(tmp_path_factory.mktemp("many"), app="tests.e2e.held_app:app", **settings) as process:
        until(lambda: alive(process))
        yield process


def asked(path, client, body=None):
    """Return a request of a client behind the proxy."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def status_of(connection):
    """Return the status of an answer, of which the head has come."""
    return int(re.match(rb"HTTP/1\.1 (\d+) ", connection.recv(65536))[1])


def none_in_flight(service):
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=60) as response:
        return b"avito_ai_batches_in_flight 0.0" in response.read()


@pytest.mark.parametrize("busy", [True, False])
def test_more_batches_than_threads_leave_threads_to_others(service, busy):
    """Those beyond the bound are refused; a page and a list of models are served.

    busy: the models are full of others' requests as well, each of which has a thread of its own.
    """
    chats = [ask(service, f"{n}", path) for path in (TEXT, VISION) for n in range(SLOTS + WAITING)] if busy else []
    body = {"prompts": ["Hello"] * 3}
    batches = [service.connect(asked("/api/v1/text/batch", f"10.0.0.{n}", body)) for n in range(2 * THREADS)]
    statuses = [status_of(connection) for connection in batches]
    assert statuses.count(200) == MOST
    assert statuses.count(503) == 2 * THREADS - MOST
    for path in ("/", "/v1/models"):
        with service.connect(asked(path, "10.9.9.9")) as other:
            assert status_of(other) == 200
    if not busy:
        ask(service, "picture", VISION).close()
    for connection in (*chats, *batches):
        connection.close()

    until(lambda: none_in_flight(service))
    later = [service.connect(asked("/api/v1/text/batch", f"10.1.0.{n}", body)) for n in range(MOST)]
    assert [status_of(connection) for connection in later] == [200] * MOST
    for connection in later:
        connection.close()
    until(lambda: none_in_flight(service))
