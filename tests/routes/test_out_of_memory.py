"""Out of memory, wherever it shows, is the service's own trouble: 503 with Retry-After, and the next request works."""

import errno
import json
import os
import socket

import pytest

from edge import errors
from engine.errors import NotReady
from serving.connection import ClientSocket
from serving.malformed import FailureResponses
from tests.fakes import image_bytes, multipart

TEXT, CHAT = "/api/v1/text/generate", "/v1/chat/completions"
QUESTION = {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}


def fail(*args, **kwargs):
    raise MemoryError


@pytest.mark.parametrize("path", [TEXT, CHAT, "/api/v1/image/analyze", "/avision"])
@pytest.mark.parametrize("where", ["middleware._check_body", "routes.parsing.body", "submit", "result"])
def test_it_is_told_as_ours(client, avibe, avision, monkeypatch, path, where):
    """Reading, submitting, waiting: never damaged, never 499, never 500."""
    body = {"json": QUESTION if path == CHAT else {"prompt": "x"}}
    if path in ("/api/v1/image/analyze", "/avision"):
        body = multipart([("image", (image_bytes(), "a.png")), ("prompt", "x")])
        where = where.replace("parsing.body", "parsing._multipart")
    with monkeypatch.context() as patched:
        if where == "submit":
            for backend in (avibe, avision):
                patched.setattr(backend, "submit", fail)
        else:
            patched.setattr("engine.backend.Generation.result" if where == "result" else where, fail)
        response = client.post(path, **body)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "too little memory" in response.text
    assert client.post(path, **body).status_code == 200


def test_a_header_that_cannot_be_read_for_lack_of_memory_is_not_damaged(client, monkeypatch):
    """Nor is the image refused for good."""
    form = multipart([("image", (image_bytes(), "a.png")), ("prompt", "x")])
    with monkeypatch.context() as patched:
        patched.setattr("engine.text.image_header.reader_for", fail)
        response = client.post("/api/v1/image/analyze", **form)
    assert (response.status_code, response.json["error"]) == (503, "overloaded")


def test_a_stream_ends_with_the_same_error(client, monkeypatch):
    """As the last event, since the head is sent."""
    monkeypatch.setattr("routes.sse.TextEvents.__call__", fail)
    for path, body in ((TEXT, {"prompt": "x"}), (CHAT, QUESTION)):
        response = client.post(path, json={**body, "stream": True})
        assert response.status_code == 200
        last = json.loads(response.text.split("data: ")[-1])
        assert (last["error"]["code"] if path == CHAT else last["error"]) == "overloaded"


def test_outside_of_the_application_it_is_told_as_well(app):
    """Where Gunicorn parses a head or writes a response."""
    ours, theirs = socket.socketpair()
    with ClientSocket(ours, 5.0) as ours, theirs:
        FailureResponses(app).send(ours, "127.0.0.1", MemoryError())
        head, _, body = theirs.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 5" in head
    assert json.loads(body)["error"] == "overloaded"


def test_clients_of_a_service_that_stops_are_told_that_it_does(client, avibe):
    """They are there: 499 is for those who have left."""
    avibe.failure = NotReady("The service stopped before the request finished.")
    assert client.post(TEXT, json={"prompt": "x"}).status_code == 503


RESOURCES = [
    *(OSError(number, os.strerror(number)) for number in sorted(errors.EXHAUSTED)),
    RuntimeError(errors.NO_THREAD),
]


@pytest.mark.parametrize("error", RESOURCES, ids=str)
@pytest.mark.parametrize("path", [TEXT, CHAT, "/avibe"])
def test_a_lack_of_files_threads_or_disk_is_told_as_ours(client, monkeypatch, path, error):
    """503 with Retry-After, in the shape of the path."""

    def fail(*arguments):
        raise error

    monkeypatch.setattr("middleware._check_body", fail)
    body = {"data": {"prompt": "x"}} if path == "/avibe" else {"json": QUESTION if path == CHAT else {"prompt": "x"}}
    response = client.post(path, **body)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0


def test_a_failure_whose_page_cannot_be_rendered_is_a_line_of_text(client, monkeypatch):
    """With the same status and headers."""

    def fail(*arguments, **named):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("routes.pages.render_template", fail)
    response = client.get("/nothing")
    assert (response.status_code, response.mimetype) == (404, "text/plain")
    assert response.text == "There is nothing at this address.\n"
    assert client.get("/").status_code == 503
