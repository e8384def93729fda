"""What requests leave is free at once: garbage that waits for a full collection pauses the streams of others then."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from benchmarks.proof.bodies import MULTIPART, upload
from tests.e2e.gunicorn_process import until
from tests.fakes import image_bytes
from tests.faults.faulty import BATCH, CHAT, IMAGE, Faulty
from tests.integrity import holdings

pytestmark = pytest.mark.slow

ASK = {"model": "avibe", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
WRONG = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
# Each with the status of its answer.
CHATS: dict[str, tuple[int, dict[str, object]]] = {
    "plain": (200, {}),
    "several answers": (200, {"n": 3}),
    "log probabilities": (200, {"logprobs": True, "top_logprobs": 3, "n": 2}),
    "of a schema": (200, {"response_format": FORM, "max_tokens": 40}),
    "of a refused schema": (400, {"response_format": WRONG}),
    "of a wrong grammar": (400, {"guided_grammar": "start: nothing"}),
    "of a call": (200, {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40}),
    "too long": (400, {"messages": [{"role": "user", "content": "word " * 5000}]}),
    "wrong field": (400, {"temperature": "warm"}),
    "no model": (404, {"model": "none"}),
    "streamed": (200, {"stream": True, "stream_options": {"include_usage": True}}),
    "several streamed": (200, {"stream": True, "n": 2}),
    "streamed schema": (200, {"stream": True, "response_format": FORM, "max_tokens": 40}),
}
TEXT = {"prompt": "a", "max_tokens": 2}
RESPONSE = {"model": "avibe", "input": "a", "max_output_tokens": 16}
OTHERS: dict[str, tuple[int, str, dict[str, object]]] = {
    "text": (200, "/api/v1/text/generate", {**TEXT}),
    "streamed text": (200, "/api/v1/text/generate", TEXT | {"stream": True}),
    "texts": (200, BATCH, {"prompts": [TEXT, "b", {"prompt": ""}]}),
    "completion": (200, "/v1/completions", TEXT | {"model": "avibe", "echo": True, "logprobs": 2}),
    "response": (200, "/v1/responses", RESPONSE | {"store": True}),
    "streamed response": (200, "/v1/responses", RESPONSE | {"stream": True}),
    "behind no response": (400, "/v1/responses", RESPONSE | {"previous_response_id": "resp_x"}),
    "message": (200, "/v1/messages", {**ASK}),
    "streamed message": (200, "/v1/messages", ASK | {"stream": True}),
    "tokens": (200, "/v1/tokenize", {"model": "avibe", "prompt": "a"}),
    "no address": (404, "/v1/nothing", {}),
}
IMAGES = {"whole": image_bytes(), "damaged": image_bytes()[:-40], "only a name": b"\x89PNG\r\n\x1a\n", "text": b"text"}
# Ways to send one body: how it is written, its coding, and the status of the answer.
CODINGS: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "gzip": (gzip.compress, "gzip", 200),
    "deflate": (zlib.compress, "deflate", 200),
    "not all of it": (lambda body: gzip.compress(body)[:-9], "gzip", 400),
    "none of it": (bytes, "gzip", 400),
    "an unknown one": (bytes, "br", 415),
}
# What is read, and the status of the answer. Pages with macros are left out: Jinja's macros refer to themselves.
READ = {
    "/status": 200,
    "/api/docs": 200,
    "/api/openapi.json": 200,
    "/api/metrics": 200,
    "/metrics": 200,
    "/v1/models": 200,
    "/v1/models/none": 404,
    "/none": 404,
    "/static/": 404,
}
FAULTS = ["parsing", "queue", "tokenizing", "prefill", "decode", "detokenizing", "sending"]


@pytest.fixture
def clean(service: Faulty) -> Iterator[Faulty]:
    """A service at rest without garbage, which keeps what there will be."""
    until(lambda: holdings(service.server).in_flight == 0)
    service.garbage(keep=True)
    yield service
    service.heal()
    service.garbage()


def send(service: Faulty, path: str, body: bytes, content_type: str = "application/json", **fields: str) -> int:
    """Send a request and read its answer; return the status. fields: of its head, with "_" for "-"."""
    head = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in fields.items()}
    connection = service.connection()
    try:
        connection.request("POST" if body else "GET", path, body or None, head)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def check(service: Faulty) -> None:
    """Fail if anything is left. The last requests may not have ended for the thread that served them: one follows."""
    until(lambda: holdings(service.server).in_flight == 0)
    assert service.text()[0] == 200
    found = service.garbage()
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", CHATS)
def test_a_chat_leaves_no_garbage(clean: Faulty, kind: str) -> None:
    """Answered or refused, whole or streamed."""
    status, fields = CHATS[kind]
    assert send(clean, CHAT, json.dumps(ASK | fields).encode()) == status
    check(clean)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_requests_leave_none_either(clean: Faulty, kind: str) -> None:
    """Of every protocol."""
    status, path, body = OTHERS[kind]
    assert send(clean, path, json.dumps(body).encode()) == status
    check(clean)


@pytest.mark.parametrize("kind", CODINGS)
@pytest.mark.parametrize("path", [CHAT, "/api/v1/text/generate"])
def test_compressed_bodies_leave_none(clean: Faulty, kind: str, path: str) -> None:
    """Whether they can be decompressed or not: what was sent would stay with the garbage."""
    compress, coding, status = CODINGS[kind]
    body = json.dumps(ASK if path == CHAT else TEXT).encode()
    assert send(clean, path, compress(body), Content_Encoding=coding) == status
    check(clean)


@pytest.mark.parametrize("path", READ)
def test_what_is_only_read_leaves_none(clean: Faulty, path: str) -> None:
    """Pages, figures and lists, compressed as browsers ask for them; the first to ask may have something made."""
    assert send(clean, path, b"", Accept_Encoding="gzip") == READ[path]
    clean.garbage(keep=True)
    assert send(clean, path, b"", Accept_Encoding="gzip") == READ[path]
    check(clean)


@pytest.mark.parametrize("kind", IMAGES)
def test_images_leave_none(clean: Faulty, kind: str) -> None:
    """Good ones and such as cannot be decoded."""
    assert (send(clean, IMAGE, upload(IMAGES[kind]), MULTIPART) == 200) is (kind == "whole")
    check(clean)


@pytest.mark.parametrize("stream", [{}, {"stream": True, "n": 2}])
@pytest.mark.parametrize("point", FAULTS)
def test_failures_leave_none(clean: Faulty, point: str, stream: dict[str, object]) -> None:
    """An error is often kept for whom it is to be told, and knows the frames that it has passed."""
    clean.hold()
    clean.inject(point, "fail", times=1 if point not in ("prefill", "decode") else 20)
    with suppress(OSError, http.client.HTTPException):  # nothing could be sent
        send(clean, CHAT, json.dumps(ASK | stream).encode())
    assert clean.was_hit(point)
    clean.heal()
    check(clean)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, ASK),
        (CHAT, ASK | {"stream": True}),
        (CHAT, ASK | {"stream": True, "n": 2}),
        (BATCH, {"prompts": ["a", "b"]}),
    ],
)
def test_a_client_that_leaves_leaves_none(clean: Faulty, path: str, fields: dict[str, object]) -> None:
    """In the middle of its answer, or of its answers."""
    clean.hold()
    clean.inject("decode", "stall")
    connection = clean.connection()
    connection.request("POST", path, json.dumps(fields).encode(), {"Content-Type": "application/json"})
    until(lambda: clean.was_hit("decode"))
    connection.close()
    clean.go()
    check(clean)
