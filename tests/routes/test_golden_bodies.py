"""Bodies byte for byte: key order, null against absent, and the sentence of every refusal, as clients get them."""

import json
import re
from pathlib import Path

import pytest

from engine.errors import ModelError, Overloaded
from engine.types import Progress, Status, TokenLogprob
from tests.fakes import image_bytes, multipart
from tests.routes.test_openai import CHAT, HELLO, TOOL
from tests.routes.test_openai import TEXT as COMPLETIONS
from tests.routes.test_openai_refusals import MISTAKES

JSON = "application/json"
OWN, BATCH, IMAGE = "/api/v1/text/generate", "/api/v1/text/batch", "/api/v1/image/analyze"
GOLDEN = json.loads(Path(__file__).with_name("golden_bodies.json").read_text(encoding="utf-8"))
# What differs from one run to the next.
VOLATILE = [
    (re.compile(r'"created":\d+'), '"created":0'),
    (re.compile(r'"created_at":"[^"]+"'), '"created_at":""'),
    (re.compile(r"call_[0-9a-f]{24}"), "call_0"),
    (re.compile(r'"total_time":[\d.e-]+'), '"total_time":0'),
    (re.compile(r'"uptime_seconds":\d+'), '"uptime_seconds":0'),
    (re.compile(r'"timestamp":"[^"]+"'), '"timestamp":""'),
]
LOGPROBS = [
    TokenLogprob(1, "Да", -0.5, ((1, "Да", -0.5), (2, "\ufffd", float("-inf"))), top_data=("Да".encode(), b"\xd0")),
    TokenLogprob(3, "", -0.1),
]
THOUGHT_AND_CALL = '<think>Hm.</think>So.\n<tool_call>{"name": "look", "arguments": {"at": "я"}}</tool_call>'
CALL_ALONE = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
UPLOAD = multipart([("prompt", "?"), ("image", (image_bytes(), "a.png"))])


def chat(**fields):
    return {"json": {"model": "avibe", "messages": HELLO} | fields}


def completion(**fields):
    return {"json": {"model": "avibe", "prompt": "x"} | fields}


def shown(fields):
    """Return a request as the name of its case."""
    text = json.dumps(fields)
    return text if len(text) < 300 else f"...{text[-60:]}"


STREAM = {"stream": True, "stream_options": {"include_usage": True}}
# Name: what the scripted text model has set, path, what is sent (nothing: a GET).
EXCHANGES = {
    "text": ({}, OWN, {"json": {"prompt": "x"}}),
    "text stream": ({}, OWN, {"json": {"prompt": "x", "stream": True}}),
    "text stream that fails": ({"failure": ModelError("It failed.")}, OWN, {"json": {"prompt": "x", "stream": True}}),
    "text that fails": ({"failure": ModelError("It failed.")}, OWN, {"json": {"prompt": "x"}}),
    "text overloaded": ({"refusal": Overloaded("The service is busy.", 3)}, OWN, {"json": {"prompt": "x"}}),
    "text of another type": ({}, OWN, {"data": b"x", "content_type": "text/plain"}),
    "batch": ({}, BATCH, {"json": {"prompts": ["x"]}}),
    "batch of a bad prompt": ({}, BATCH, {"json": {"prompts": [""]}}),
    "image": ({}, IMAGE, UPLOAD),
    "chat": ({}, CHAT, chat()),
    "chat n=2": ({}, CHAT, chat(n=2)),
    "chat with log probabilities": ({"logprobs": LOGPROBS}, CHAT, chat(logprobs=True, top_logprobs=2)),
    "chat with a thought and a call": ({"text": THOUGHT_AND_CALL}, CHAT, chat(tools=[TOOL], reasoning_effort="high")),
    "chat with a call alone": ({"text": CALL_ALONE}, CHAT, chat(tools=[TOOL])),
    "chat of an empty text": ({"text": ""}, CHAT, chat()),
    "chat stream": ({}, CHAT, chat(stream=True)),
    "chat stream with usage": ({}, CHAT, chat(**STREAM)),
    "chat stream with a thought and a call": (
        {"text": THOUGHT_AND_CALL},
        CHAT,
        chat(stream=True, tools=[TOOL], reasoning_effort="high"),
    ),
    "chat stream that fails": ({"failure": ModelError("It failed.")}, CHAT, chat(stream=True)),
    "chat that fails": ({"failure": ModelError("It failed.")}, CHAT, chat()),
    "completion": ({}, COMPLETIONS, completion()),
    "completion of two prompts": ({}, COMPLETIONS, completion(prompt=["a", "b"])),
    "completion with log probabilities": ({"logprobs": LOGPROBS}, COMPLETIONS, completion(logprobs=2)),
    "completion stream": ({}, COMPLETIONS, completion(**STREAM)),
    "models": ({}, "/v1/models", None),
    "model": ({}, "/v1/models/avibe", None),
    "unknown model": ({}, "/v1/models/x", None),
    "nothing under /v1": ({}, "/v1/x", None),
    "nothing under /api": ({}, "/api/x", None),
    "health": ({}, "/api/health", None),
    "ready": ({}, "/api/health/ready", None),
    "live": ({}, "/api/health/live", None),
    "figures": ({}, "/api/metrics", None),
    "reset": ({}, "/api/metrics/reset", {}),
}
REFUSALS = {
    "prompts of a number": (BATCH, {"json": {"prompts": [5]}}),
    "prompts of half a character": (BATCH, {"data": r'{"prompts": ["\ud800"]}', "content_type": JSON}),
    "prompts null": (BATCH, {"json": {"prompts": None}}),
    "image of a number": (IMAGE, {"json": {"prompt": "x", "image": 5}}),
    "image null": (IMAGE, {"json": {"prompt": "x", "image": None}}),
    "image of half a character": (
        IMAGE,
        {"data": r'{"prompt": "x", "image": "\ud800"}', "content_type": JSON},
    ),
    "stream of a number": (OWN, {"json": {"prompt": "x", "stream": 1}}),
    "unknown field of the name of a branch": (OWN, {"json": {"prompt": "x", "branch:text": 1}}),
    "unknown field of the name of a tag": (OWN, {"json": {"prompt": "x", "text": 1, "type": "text"}}),
    "unknown field that is null": (OWN, {"json": {"prompt": "x", "top_p": None}}),
    "model null": (CHAT, chat(model=None)),
    "model too long": (CHAT, chat(model="x" * 257)),
    "model of half a character": (
        CHAT,
        {"data": json.dumps({"model": "\ud800", "messages": HELLO}), "content_type": JSON},
    ),
    "messages missing": (CHAT, {"json": {"model": "avibe"}}),
    "too many messages": (CHAT, chat(messages=HELLO * 1025)),
    "stop of half a character": (
        CHAT,
        {"data": json.dumps({"model": "avibe", "messages": HELLO, "stop": ["\ud800"]}), "content_type": JSON},
    ),
    "unreadable field": (CHAT, chat(**{"a\nb": 1})),
    "response_format without a type": (CHAT, chat(response_format={})),
    "stop too long": (CHAT, chat(stop=["a", "x" * 257])),
    "pattern": (CHAT, chat(tools=[{"type": "function", "function": {"name": "a b"}}])),
    "no prompt": (COMPLETIONS, {"json": {"model": "avibe"}}),
    "prompt of nothing": (COMPLETIONS, completion(prompt=[""])),
    "token too large": (COMPLETIONS, completion(prompt=[2**31])),
    "token below 0": (COMPLETIONS, completion(prompt=[-1])),
} | {shown(fields): (CHAT, chat(**fields)) for fields, _ in MISTAKES}


def stable(text):
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def sent(client, path, request):
    headers = {"X-Request-ID": "mine"}
    return client.get(path, headers=headers) if request is None else client.post(path, headers=headers, **request)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_body_is_byte_for_byte_what_it_was(client, avibe, name):
    """No key moves, appears or goes, and null stays null."""
    script, path, request = EXCHANGES[name]
    for field, value in script.items():
        setattr(avibe, field, value)
    assert stable(sent(client, path, request).text) == GOLDEN["bodies"][name]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_word_for_word_what_it_was(client, name):
    """The sentence, the field and the code."""
    response = sent(client, *REFUSALS[name])
    assert [response.status_code, response.text] == GOLDEN["refusals"][name]


@pytest.mark.parametrize("status", [Status.LOADING, Status.DRAINING, Status.STALLED, Status.DEAD])
def test_a_probe_is_byte_for_byte_what_it_was(client, avibe, status):
    """Reason and progress stand where they stood."""
    progress = Progress("weights", 3, 16, 1.5) if status is Status.LOADING else None
    avibe.become(status, reason="It is so.", progress=progress, restart_needed=status is Status.DEAD)
    bodies = [client.get(path).text for path in ("/api/health/ready", "/api/health/live")]
    assert bodies == GOLDEN["probes"][status.value]
