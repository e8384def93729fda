"""How large the rules of an answer from elsewhere may be, and that nothing else of them is refused here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from config import load_settings
from models import ModelSet
from tests.fake_upstream import FakeUpstream
from tests.fakes import FakeMachine
from tests.upstream.conftest import Open

Ask = Callable[[dict[str, Any]], Any]
LONG = "x" * (64 * 1024 + 1)


def nested(levels: int) -> dict[str, Any]:
    """Return a schema of so many levels."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def tools(*schemas: dict[str, Any], choice: str = "required") -> dict[str, Any]:
    functions = [{"name": f"look{number}", "parameters": schema} for number, schema in enumerate(schemas)]
    return {"tools": [{"type": "function", "function": one} for one in functions], "tool_choice": choice}


@pytest.fixture
def ask(opened: Open, environ: dict[str, str]) -> Ask:
    """Return what asks a service whose model is elsewhere, with these fields of a chat."""
    from app_production import create_app

    backend = opened(retries=0, max_model_len=100_000)
    models = ModelSet({"avibe": backend}, upstreams={"avibe": backend})
    client: FlaskClient = create_app(load_settings(environ, None), models, FakeMachine()).test_client()
    said = [{"role": "user", "content": "Hello"}]
    return lambda fields: client.post("/v1/chat/completions", json={"model": "avibe", "messages": said} | fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (form({"description": LONG}), "is too long. Maximum: 64 KiB"),
        (form(nested(20)), "is nested too deeply. Maximum: 32 levels"),
        (form({"enum": list(range(2001))}), "is too large. Maximum: 2000 values"),
        (tools({"type": "object", "description": LONG}), "is too long. Maximum: 64 KiB"),
        (tools(*[{"type": "object", "description": LONG[1000:]}] * 5), "tools are too long. Maximum: 256 KiB"),
        ({"structured_outputs": {"regex": LONG}}, "is too long. Maximum: 64 KiB"),
        ({"structured_outputs": {"choice": ["yes", LONG]}}, "is too long. Maximum: 64 KiB"),
        ({"structured_outputs": {"grammar": LONG}}, "is too long. Maximum: 64 KiB"),
    ],
    ids=["long", "deep", "many", "tool", "tools", "regex", "choice", "grammar"],
)
def test_rules_are_bounded_as_those_of_a_model_here(
    ask: Ask, server: FakeUpstream, fields: dict[str, Any], said: str
) -> None:
    """They would be written in one piece into each request, and be enforced here."""
    response = ask(fields)
    assert (response.status_code, response.json["error"]["code"]) == (400, "validation_error")
    assert said in response.json["error"]["message"]
    assert not server.heard


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (form({"type": "object", "propertyNames": {"maxLength": 3}}), '{"a": 1}'),
        (form({"type": "array", "uniqueItems": True, "contains": {"const": 1}}), "[1]"),
        (form({"not": {"type": "integer"}}), '"a"'),
        ({"structured_outputs": {"regex": "(?<=x)a"}}, "a"),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "a"),
        (tools({"type": "object", "description": LONG}, choice="auto"), "a"),
    ],
    ids=["propertyNames", "contains", "not", "regex", "gbnf", "free"],
)
def test_what_only_the_grammars_here_lack_is_left_to_the_server(
    ask: Ask, server: FakeUpstream, fields: dict[str, Any], answer: str
) -> None:
    """It decodes by itself; and schemas of functions that need not be called are part of the prompt."""
    server.script.deltas = [{"content": answer}]
    response = ask(fields)
    assert response.status_code == 200, response.text
    assert response.json["choices"][0]["message"]["content"] == answer
    assert len(server.heard) == 1
