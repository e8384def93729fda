"""What requests leave is free at once: garbage that waits for a full collection pauses the streams of others then."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
TOO_LONG = {"type": "string", "minLength": 10**6, "pattern": "^(a|b)*$"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
CHATS = {
    "plain": {},
    "several answers": {"n": 3},
    "log probabilities": {"logprobs": True, "top_logprobs": 3, "n": 2},
    "of a schema": {"response_format": FORM, "max_tokens": 40},
    "of a refused schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": TOO_LONG}}
    },
    "of a wrong grammar": {"guided_grammar": "start: nothing"},
    "of a call": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40},
    "too long": {"max_tokens": 10**7},
    "wrong field": {"temperature": "warm"},
    "no model": {"model": "none"},
    "streamed": {"stream": True, "stream_options": {"include_usage": True}},
    "several streamed": {"stream": True, "n": 2},
    "streamed schema": {"stream": True, "response_format": FORM, "max_tokens": 40},
}
OTHERS = {
    "text": ("/api/v1/text/generate", {"prompt": "a", "max_tokens": 2}),
    "streamed text": ("/api/v1/text/generate", {"prompt": "a", "max_tokens": 2, "stream": True}),
    "texts": (BATCH, {"prompts": ["a", "b"], "max_tokens": 2}),
    "completion": ("/v1/completions", {"model": "avibe", "prompt": "a", "max_tokens": 2, "echo": True, "logprobs": 2}),
    "response": ("/v1/responses", {"model": "avibe", "input": "a", "max_output_tokens": 16, "store": True}),
    "streamed response": ("/v1/responses", {"model": "avibe", "input": "a", "max_output_tokens": 16, "stream": True}),
    "no response": ("/v1/responses", {"model": "avibe", "input": "a", "previous_response_id": "resp_x"}),
    "message": ("/v1/messages", ASK),
    "streamed message": ("/v1/messages", ASK | {"stream": True}),
    "tokens": ("/v1/tokenize", {"model": "avibe", "prompt": "a"}),
    "no address": ("/v1/nothing", {}),
}
FAULTS = ["parsing", "queue", "tokenizing", "prefill", "decode", "detokenizing", "sending"]


@pytest.fixture
def clean(service: Faulty) -> Iterator[Faulty]:
    """A service without garbage, which keeps what there will be."""
    service.garbage(keep=True)
    yield service
    service.garbage()


def send(service: Faulty, path: str, body: bytes, content_type: str = "application/json") -> int:
    """Send a request and read its answer; return the status."""
    connection = service.connection()
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def left(service: Faulty) -> list[str]:
    """Return what is left once the request has ended on the server's side as well."""
    until(lambda: holdings(service.server).in_flight == 0)
    return service.garbage()


@pytest.mark.parametrize("kind", CHATS)
def test_a_chat_leaves_no_garbage(clean: Faulty, kind: str) -> None:
    """Answered or refused, whole or streamed."""
    send(clean, CHAT, json.dumps(ASK | CHATS[kind]).encode())
    found = left(clean)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_requests_leave_none_either(clean: Faulty, kind: str) -> None:
    """Of every protocol."""
    path, body = OTHERS[kind]
    send(clean, path, json.dumps(body).encode())
    found = left(clean)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("image", [image_bytes(), b"\x89PNG\r\n\x1a\n nothing", image_bytes()[:-40], b"text"])
def test_images_leave_none(clean: Faulty, image: bytes) -> None:
    """Good ones and such as cannot be decoded."""
    send(clean, IMAGE, upload(image), MULTIPART)
    found = left(clean)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("point", FAULTS)
def test_failures_leave_none(clean: Faulty, point: str) -> None:
    """An error is often kept for whom it is to be told, and knows the frames that it has passed."""
    clean.inject(point, "fail", times=1 if point not in ("prefill", "decode") else 20)
    try:
        send(clean, CHAT, json.dumps(ASK).encode())
    except OSError:
        pass  # nothing could be sent
    clean.heal()
    found = left(clean)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_leaves_none(clean: Faulty, stream: bool) -> None:
    """In the middle of its answer."""
    connection = clean.connection()
    body = ASK | {"max_tokens": 900, "ignore_eos": True, "stream": stream}
    connection.request("POST", CHAT, json.dumps(body).encode(), {"Content-Type": "application/json"})
    if stream:
        connection.getresponse().read(1)
    else:
        until(lambda: holdings(clean.server).in_flight > 0)
    connection.close()
    found = left(clean)
    assert not found, "\n".join(found)
