"""Streams of the whole application on a real Gunicorn: generation stops when clients disconnect."""

import json
import time

import pytest

from tests.e2e.gunicorn_process import GunicornProcess, alive, until
from tests.e2e.test_clients import close, moment, reset
from tests.timing import once_within

pytestmark = pytest.mark.slow

CHAT, OWN, BATCH = "/v1/chat/completions", "/api/v1/text/generate", "/api/v1/text/batch"
BODIES = {
    CHAT: {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    OWN: {"prompt": "Hello", "stream": True},
    BATCH: {"prompts": ["Hello"]},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The application over models whose answers stay open, with limits off."""
    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    with GunicornProcess(tmp_path_factory.mktemp("streams"), app="tests.e2e.held_app:app", **off) as process:
        until(lambda: alive(process))
        yield process


def begin(process, path, request_id):
    """Begin a stream and return its connection once the headers are there and the model has the request."""
    body = json.dumps(BODIES[path])
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {request_id}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = process.connect((head + body).encode())
    moment(process, "began", f"{request_id}-0" if path == BATCH else request_id)
    return connection


@pytest.mark.parametrize("path", [CHAT, OWN, BATCH])
@pytest.mark.parametrize("leave", [close, reset])
def test_a_client_that_leaves_a_stream_has_its_answer_aborted_within_100_ms(service, path, leave):
    """For any stream, and although nothing was written meanwhile."""

    def attempt(number):
        request_id = f"{path.rpartition('/')[2]}-{leave.__name__}-{number}"
        connection = begin(service, path, request_id)
        left = time.monotonic()
        leave(connection)
        return moment(service, "aborted", f"{request_id}-0" if path == BATCH else request_id) - left

    once_within(0.1, attempt)
    assert "Traceback" not in service.log()


def test_the_first_event_of_a_chat_is_there_before_its_first_token(service):
    """The headers and the role are sent at once, unbuffered."""
    connection = begin(service, CHAT, "first")
    received = b""
    while b'"role":"assistant"' not in received:
        received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Accel-Buffering: no\r\n" in received
    connection.close()
    moment(service, "aborted", "first")
