"""The schemas of strangers, to which answers from elsewhere are held: exactly, and never for long."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from engine.errors import (
    DeadlineExceeded,
    Overloaded,
    RequestAborted,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationError,
)
from engine.types import AnswerRules, GenerationRequest
from tests.fake_upstream import FakeUpstream
from tests.fakes import PATIENCE, Clock
from tests.upstream.conftest import Open, asking
from tests.upstream.test_faults import failure_of, until
from upstream import answer_schema
from upstream.answer_schema import AnswerSchema
from upstream.checking import AnswerCheck
from upstream.quick_schema import is_quick

LARGE = {"enum": [f"word {number}" for number in range(8000)]}
REFERS = {"$defs": {"a": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}


def doubling(levels: int) -> dict[str, Any]:
    """Return a small schema that takes twice as long with each level."""
    names = [{"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)]
    return {"$defs": {f"d{level}": one for level, one in enumerate([*names, {}])}, "$ref": "#/$defs/d0"}


def nested(levels: int, **beside: Any) -> dict[str, Any]:
    """Return a schema whose `unevaluated*` or `if` looks again at all that is below it, at each level."""
    one: dict[str, Any] = {"properties": {"a": {}}}
    for _ in range(levels):
        one = {"anyOf": [one, {"properties": {"zz": {}}}], **beside}
    return one


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
        AnswerCheck(AnswerRules("response_format", schema))
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


@pytest.mark.parametrize(
    "schema",
    [
        nested(24, unevaluatedProperties=False),
        nested(24, unevaluatedItems=False),
        {"type": "object", "properties": {"a": nested(2, unevaluatedProperties={"type": "integer"})}},
        {"items": [{"not": {"if": {}, "then": {}}}]},
        {"additionalProperties": {"dependentSchemas": {"a": {}}}},
        {"items": {"multipleOf": 1e-7}},
        {"items": {"uniqueItems": True}},
        {"oneOf": [{"pattern": "a"}]},
        {"allOf": [{"patternProperties": {"a": {}}}]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "format": "regex"},
        {"prefixItems": [{"$ref": "#"}]},
        {"$dynamicRef": "#a"},
        {"$id": "http://x/y"},
        {"keyword of tomorrow": 1},
    ],
)
def test_what_may_take_longer_than_its_length_is_left_to_a_process(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever part of the schema it stands; the interpreter is never held for it."""
    judged = []
    monkeypatch.setattr(answer_schema, "judge", lambda *texts: judged.append(texts) or "valid")
    assert allows(schema, 1)
    assert judged == [(json.dumps([schema]), "1")]


def test_ordinary_schemas_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of properties, and values that are listed, are no keywords."""
    monkeypatch.setattr(answer_schema, "judge", None)
    names = {name: {"type": "string", "minLength": 1} for name in ("if", "$ref", "pattern", "properties")}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "title": "Ordinary",
        "properties": {
            **names,
            "when": {"type": "string", "format": "date-time"},
            "list": {"type": "array", "maxItems": 2, "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
            "one": {"enum": [{"$ref": 1, "multipleOf": 2}, None], "default": {"if": 1}},
        },
        "required": ["list"],
        "additionalProperties": False,
    }
    assert allows(schema, {"list": [1, None], "one": None, "if": "x"})
    assert not allows(schema, {"list": ["1"]})
    assert is_quick(True)


class Held:
    """A judge that holds every answer back until it is told, and finds it valid."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Event(), threading.Event()

    def __call__(self, schemas: str, *values: str) -> str:
        if values:
            self.asked.set()
            assert self.told.wait(PATIENCE)
        return "valid"


def test_the_time_of_a_check_is_not_the_servers_silence(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server falls silent and is found to be so meanwhile; the one that has answered is waited for no more."""
    held, clock = Held(), Clock()
    monkeypatch.setattr(answer_schema, "judge", held)
    backend = opened(clock=clock, retries=0, idle_timeout=0.1)
    server.script.deltas = [{"content": "1"}] * 4
    checked = backend.submit(asking(rules=AnswerRules("response_format", REFERS)))
    assert held.asked.wait(PATIENCE)
    server.script.faults = ["stall"]
    silent = backend.submit(asking())
    until(lambda: clock.advance(0.1) or silent.done)
    assert isinstance(failure_of(silent), UpstreamTimedOut)
    assert not checked.done
    held.told.set()
    assert checked.result().text == "1111"
    assert backend.reports()[0].failures == {"timeout": 1}


def test_a_check_that_has_to_wait_too_long_blames_nobody(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may try again later, and pays for the answer; nothing is generated once more, here or elsewhere."""
    held, asked_again = Held(), list[GenerationRequest]()
    monkeypatch.setattr(answer_schema, "judge", held)
    backend = opened(retries=2, breaker_failures=1)
    backend.stand_in = lambda request: asked_again.append(request)  # type: ignore[assignment, func-returns-value]
    server.script.deltas = [{"content": "1"}]
    generation = backend.submit(asking(rules=AnswerRules("response_format", REFERS)))
    monkeypatch.setattr(answer_schema, "PATIENCE", 0.05)
    assert type(failure_of(generation)) is Overloaded
    held.told.set()
    assert generation.spent.output_tokens == 1
    assert (len(server.heard), asked_again) == (1, [])
    assert (backend.reports()[0].state, backend.reports()[0].failures) == ("closed", {})


def test_one_client_with_many_checks_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own wait for each other."""
    held = Held()
    monkeypatch.setattr(
        answer_schema, "judge", lambda schemas, *values: held(schemas, *values) if "properties" in schemas else "valid"
    )

    async def check() -> list[bool]:
        many = [asyncio.create_task(AnswerSchema(REFERS, "response_format", "many").allows({}, "{}")) for _ in range(6)]
        await asyncio.sleep(0)
        assert await AnswerSchema({"pattern": "1"}, "response_format", "other").allows("1", '"1"')
        assert not any(one.done() for one in many)
        held.told.set()
        return await asyncio.gather(*many)

    assert asyncio.run(check()) == [True] * 6


def test_the_schemas_of_a_request_are_tried_once_and_together(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many functions and answers it has; another request's schemas are its own."""
    tried = list[str]()
    monkeypatch.setattr(answer_schema, "judge", lambda *texts: tried.append(*texts) or "valid")
    server.script.wait = 30
    backend, schemas = opened(), {f"look{number}": REFERS for number in range(128)}
    rules = AnswerRules(call="required", arguments=schemas)
    for number in range(8):
        backend.submit(asking(request_id=f"r-{number}", rules=rules))
    assert [json.loads(texts) for texts in tried] == [list(schemas.values())]
    backend.submit(asking(rules=AnswerRules(call="required", arguments=schemas)))
    assert len(tried) == 2


@pytest.mark.parametrize("wrong", [{"$ref": "#/$defs/none"}, {"pattern": "("}])
def test_one_that_is_no_schema_is_found_among_others(wrong: dict[str, Any]) -> None:
    """By the process that tries them all."""
    arguments = {"look": REFERS, "stop": wrong, "go": {"pattern": "a"}}
    with pytest.raises(ValidationError) as refused:
        AnswerCheck(AnswerRules(call="required", arguments=arguments))
    assert refused.value.param == "tools"
    AnswerCheck(AnswerRules(call="required", arguments={name: arguments[name] for name in ("look", "go")}))


@pytest.mark.parametrize(("left", "error"), [(True, RequestAborted), (False, DeadlineExceeded)])
def test_schemas_are_waited_for_no_longer_than_the_client_waits(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch, left: bool, error: type
) -> None:
    """It has left, or its time is over; nothing is sent then."""
    begun, told = threading.Event(), threading.Event()

    def hold(*texts: str) -> str:
        begun.set()
        assert told.wait(PATIENCE)
        return "valid"

    monkeypatch.setattr(answer_schema, "judge", hold)
    monkeypatch.setattr(answer_schema, "PATIENCE", PATIENCE)
    backend = opened()
    request = asking(rules=AnswerRules("response_format", REFERS), timeout=PATIENCE if left else 0.3)

    def leave() -> None:
        if begun.wait(PATIENCE) and left:
            request.cancellation.cancel()

    leaves = threading.Thread(target=leave)
    leaves.start()
    with pytest.raises(error) as ended:
        backend.submit(request)
    told.set()
    leaves.join()
    assert type(ended.value) is error
    assert (server.heard, backend.stats().num_requests_running) == ([], 0)


def test_no_server_is_blamed_for_the_time_that_schemas_took(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked once its time is over."""
    clock = Clock()
    monkeypatch.setattr(answer_schema, "judge", lambda *texts: clock.advance(6) or "valid")
    backend = opened(clock=clock, timeout=5, breaker_failures=1)
    generation = backend.submit(asking(rules=AnswerRules("response_format", REFERS)))
    assert type(failure_of(generation)) is UpstreamTimedOut
    (report,) = backend.reports()
    assert (server.heard, report.requests, report.failures, report.state) == ([], 0, {}, "closed")
