"""What a client has sent is not kept while its answer is generated, and its bytes are given back to the budget."""

import base64
import json
import random
import threading
import tracemalloc
from dataclasses import replace

import pytest

from routes import parsing
from tests.fakes import PATIENCE, image_bytes, multipart

MIB = 2**20
IMAGE = image_bytes() + random.Random(1).randbytes(4 * MIB)
URL = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
SEE = {"type": "input_image", "image_url": URL}
LOOK = {"type": "image_url", "image_url": {"url": URL}}
SOURCE = {"type": "image", "source": {"type": "base64", "data": URL.partition(",")[2]}}


class Connection:
    """The server's socket, as far as it is used: it counts how often the body was released."""

    def __init__(self):
        self.released = 0

    def fileno(self):
        return -1

    def release_body(self):
        self.released += 1


def as_json(**body):
    return {"data": json.dumps(body).encode(), "content_type": "application/json"}


def ask(name, stream):
    chat = [{"role": "user", "content": [{"type": "text", "text": "?"}, LOOK]}]
    return {
        "image": ("/api/v1/image/analyze", as_json(prompt="?", image=URL, stream=stream)),
        "form": (
            "/api/v1/image/analyze",
            multipart([("prompt", "?"), ("image", (IMAGE, "a.png")), ("stream", str(stream).lower())]),
        ),
        "responses": (
            "/v1/responses",
            as_json(model="avision", input=[{"role": "user", "content": [SEE]}], stream=stream),
        ),
        "messages": (
            "/v1/messages",
            as_json(model="avision", max_tokens=8, messages=[{"role": "user", "content": [SOURCE]}], stream=stream),
        ),
        "chat": ("/v1/chat/completions", as_json(model="avision", messages=chat, stream=stream)),
    }[name]


def until_released(connection):
    """Wait for the release, which another thread does."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if connection.released:
            return
        pause.wait(0.01)
    raise AssertionError("the body was never released")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["image", "form", "chat", "responses", "messages"])
def test_an_image_is_dropped_once_it_is_submitted(client, avision, name, stream):
    """Neither a view nor a stream holds it while the model answers."""
    path, body = ask(name, stream)
    connection, responses = Connection(), []
    avision.hold = True

    def post():
        responses.append(client.post(path, environ_overrides={"gunicorn.socket": connection}, **body))
        responses[0].get_data()

    tracemalloc.start()
    try:
        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        avision.wait_for(lambda backend: backend.submitted)
        request_id = avision.only.request_id
        avision.submitted.clear()
        until_released(connection)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    avision.finish(request_id)
    thread.join(PATIENCE)
    assert responses[0].status_code == 200
    assert connection.released == 1
    assert kept < MIB


def test_a_body_is_read_into_one_buffer(app):
    """It is not copied once it is whole, which would take its size again and the interpreter lock for all of it."""
    size = 32 * MIB
    with app.test_request_context("/", method="POST", data=bytes(size)):
        tracemalloc.start()
        try:
            assert len(parsing.body()) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1.5 * size


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/text/generate", {"prompt": "x"}),
        ("/v1/completions", {"model": "avibe", "prompt": "x"}),
        ("/v1/chat/completions", {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/v1/text/batch", {"prompts": ["x", "y", "z"]}),
    ],
)
def test_every_generation_releases_its_body(client, path, body):
    """So that a long answer does not keep others from sending theirs."""
    connection = Connection()
    response = client.post(path, json=body, environ_overrides={"gunicorn.socket": connection})
    assert (response.status_code, response.get_data() != b"") == (200, True)
    assert connection.released >= 1


@pytest.mark.parametrize("where", ["elsewhere", "or_elsewhere"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/text/generate", {"prompt": "x"}),
        ("/v1/completions", {"model": "avibe", "prompt": "x"}),
        ("/v1/chat/completions", {"model": "avibe", "messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("/v1/responses", {"model": "avibe", "input": "x"}),
        ("/v1/messages", {"model": "avibe", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
        ("/api/v1/text/batch", {"prompts": ["x", "y", "z"]}),
    ],
)
def test_a_body_counts_to_the_end_where_a_server_elsewhere_may_answer(client, avibe, path, body, where):
    """It is kept there to be sent, and to be sent again."""
    avibe._info = replace(avibe.info, **{where: True})
    connection = Connection()
    response = client.post(path, json=body, environ_overrides={"gunicorn.socket": connection})
    assert (response.status_code, response.get_data() != b"") == (200, True)
    assert connection.released == 0
