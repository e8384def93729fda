"""The schemas of strangers, to which answers from elsewhere are held: exactly, and never for long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engine.errors import UpstreamFailed, ValidationError
from engine.types import AnswerRules
from tests.fake_upstream import FakeUpstream
from tests.upstream.conftest import Open, asking
from upstream import answer_schema
from upstream.answer_schema import AnswerSchema
from upstream.checking import AnswerCheck

LARGE = {"enum": [f"word {number}" for number in range(8000)]}
REFERS = {"$defs": {"a": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}


def doubling(levels: int) -> dict[str, Any]:
    """Return a small schema that takes twice as long with each level."""
    names = [{"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)]
    return {"$defs": {f"d{level}": one for level, one in enumerate([*names, {}])}, "$ref": "#/$defs/d0"}


def allows(schema: dict[str, Any], value: Any) -> bool:
    return asyncio.run(AnswerSchema(schema, "response_format").allows(value, json.dumps(value)))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, 1, "1"),
        (REFERS, {"a": 1}, {"a": "1"}),
        ({"type": "string", "pattern": "^a+$"}, "aa", "ab"),
        (LARGE, "word 7", "word 8000"),
    ],
)
def test_a_value_is_held_to_its_schema(schema: dict[str, Any], good: Any, bad: Any) -> None:
    """Here or in a process alike."""
    assert allows(schema, good)
    assert not allows(schema, bad)


@pytest.mark.parametrize("schema", [{"type": 5}, {"$ref": "#/$defs/none"}, {"$ref": "http://127.0.0.1:1/x"}])
def test_what_is_no_schema_is_refused_before_the_server_is_asked(schema: dict[str, Any]) -> None:
    """With the field that has it; nothing is fetched."""
    with pytest.raises(ValidationError) as refused:
        AnswerSchema(schema, "response_format")
    assert refused.value.param == "response_format"


def test_a_schema_that_takes_for_ever_stops_nothing_else(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other answers come meanwhile; at its end the client hears that its own schema is at fault, and the server not."""
    judge = answer_schema.judge
    monkeypatch.setattr(answer_schema, "judge", lambda *texts: judge(*texts, seconds=1))
    backend = opened(breaker_failures=1)
    server.script.deltas = [{"content": "1"}]
    endless = backend.submit(asking(rules=AnswerRules("response_format", doubling(40))))
    server.wait_for(lambda server: server.heard)
    assert backend.submit(asking()).result().text == "1"
    assert not endless.done
    with pytest.raises(ValidationError):
        endless.result()
    assert (len(server.heard), backend.reports()[0].state) == (2, "closed")


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', "[-Infinity]"])
def test_what_only_python_takes_for_json_is_no_answer_to_a_schema(text: str) -> None:
    """Clients could not read it."""
    with pytest.raises(UpstreamFailed):
        asyncio.run(AnswerCheck(AnswerRules("response_format", {})).check(text, [], False))
