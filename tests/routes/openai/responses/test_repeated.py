"""What a response repeats of its request is bounded, and what fails before its answer leaves nothing behind."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest

from engine.text.prompt_size import LONGEST_TOKEN
from routes.openai.responses import stored
from routes.openai.responses.namespaces import functions
from routes.openai.responses.requests import ResponseRequest
from routes.services import services

PATH = "/v1/responses"
CONTEXT = 64  # tokens
MOST = LONGEST_TOKEN * CONTEXT  # characters
LOOK = {"type": "function", "name": "look"}


@pytest.fixture(autouse=True)
def small(avibe):
    """A model of few tokens that uses tools."""
    avibe._info = replace(avibe.info, max_model_len=CONTEXT, tools=True)
    return avibe


def form(**fields):
    return {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}} | fields}}


LONG = "a" * MOST
REPEATED = {
    "a namespace without functions": {"tools": [{"type": "namespace", "name": "n", "description": LONG, "tools": []}]},
    "a function that may not be called": {
        "tools": [LOOK, LOOK | {"name": "see", "description": LONG}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
    },
    "the name of a form": form(name=LONG),
    "the description of a form": form(description=LONG),
    "the schema of a form beside a forced call": form(schema={"type": "object", "title": LONG})
    | {"tools": [LOOK], "tool_choice": "required"},
    "the namespace of many functions": {
        "tools": [
            {
                "type": "namespace",
                "name": "n",
                "description": "a" * (MOST // 100 + 1),
                "tools": [LOOK | {"name": f"f{number}"} for number in range(101)],
            }
        ]
    },
}


@pytest.mark.parametrize("fields", REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/input_tokens"])
def test_what_would_not_fit_into_a_prompt_is_refused(client, avibe, path, fields):
    """Read by the model or not; as a prompt that is too long, before anything is submitted."""
    response = client.post(path, json={"model": "avibe", "input": "Hi"} | fields)
    assert (response.status_code, response.json["error"]["code"]) == (400, "context_length_exceeded")
    assert response.json["error"]["param"] in ("tools", "text.format")
    assert not avibe.submitted


def test_functions_take_no_more_memory_than_what_is_sent():
    """What is said of their namespace is repeated for none of them before that is known to be little."""
    space = {"type": "namespace", "name": "n", "description": "a" * 200_000}
    space["tools"] = [LOOK | {"name": f"f{number}", "description": "b"} for number in range(128)]
    tools = ResponseRequest(model="avibe", input="Hi", tools=[space]).tools
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="too long"):
            functions(tools, 100_000)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_a_response_that_cannot_be_made_leaves_nothing(client, app, avibe, monkeypatch):
    """Though its answer was submitted: that is aborted, and its place in the store is free."""
    avibe.hold = True
    monkeypatch.setattr("routes.openai.responses.create._begun", lambda *args: 1 / 0)
    assert client.post(PATH, json={"model": "avibe", "input": "Hi", "store": True}).status_code == 500
    assert not avibe.stats().num_requests_running
    assert not services(app).responses._drafted


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_turn_is_searched_in_pieces(monkeypatch, size):
    """Of any size; a name that lies across two of them is found, and each brace is counted once."""
    monkeypatch.setattr(stored, "SEARCHED_BYTES", size)
    items = json.dumps([{"id": f"msg_{number}", "content": "{[" * number} for number in range(9)]).encode()
    for number in range(9):
        assert stored._has(items, b'"id": "msg_%d"' % number)
    assert not stored._has(items, b'"id": "msg_9"')
    for character in (b"{", b"["):
        assert stored._number_of(character, items) == items.count(character)
