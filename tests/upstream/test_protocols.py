"""A server elsewhere behind each protocol: its answers, and its faults in the shape of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from config import load_settings
from engine.errors import Overloaded
from models import ModelSet
from tests.fake_upstream import FakeUpstream, Script, event
from tests.fakes import FakeMachine, ScriptedBackend
from tests.held_turn import held_turn
from tests.upstream.conftest import Open
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import limits_for
from upstream.generation import UpstreamGeneration
from upstream.standing_in import StandingIn

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string"}},
            "required": ["q"],
            "additionalProperties": False,
        },
    },
}
Text = Callable[[Any], str]

PROTOCOLS: dict[str, tuple[str, dict[str, Any], Text]] = {
    "api": ("/api/v1/text/generate", {"prompt": "Hello"}, lambda body: body["data"]["text"]),
    "chat": (
        "/v1/chat/completions",
        {"model": "avibe", "messages": HELLO},
        lambda body: body["choices"][0]["message"]["content"],
    ),
    "completions": ("/v1/completions", {"model": "avibe", "prompt": "Hello"}, lambda body: body["choices"][0]["text"]),
    "responses": (
        "/v1/responses",
        {"model": "avibe", "input": "Hello"},
        lambda body: body["output"][0]["content"][0]["text"],
    ),
    "messages": (
        "/v1/messages",
        {"model": "avibe", "max_tokens": 50, "messages": HELLO},
        lambda body: body["content"][0]["text"],
    ),
}
CODES: dict[str, Text] = {
    "api": lambda body: body["error"],
    "chat": lambda body: body["error"]["code"],
    "completions": lambda body: body["error"]["code"],
    "responses": lambda body: body["error"]["code"],
    "messages": lambda body: body["error"]["type"],
}
ANTHROPIC = {502: "api_error", 503: "overloaded_error", 504: "timeout_error"}


WHOLE_IN_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", {"chat_template_kwargs": {"enable_thinking": True}}),
    "chats": ("chat", {"chat_template_kwargs": {"enable_thinking": True}, "n": 2}),
    "response": ("responses", {"reasoning": {"effort": "high"}}),
    "response with tools": ("responses", {"tools": [{"type": "function", "name": "look", "parameters": {}}]}),
    "plain response": ("responses", {}),
}


@pytest.mark.parametrize("name", WHOLE_IN_PARTS)
def test_a_whole_answer_is_waited_for_without_a_turn_and_asked_for_again(
    server: FakeUpstream, opened: Open, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also one whose parts tell which of its tokens are reasoning: nothing of it was sent to its client."""
    from app_production import create_app

    backend, seen = opened(retries=1), list[bool]()
    client = create_app(load_settings(environ, None), ModelSet({"avibe": backend}), FakeMachine()).test_client()
    result = UpstreamGeneration.result
    server.script.faults, server.script.gap = ["half"] * (2 if name == "chats" else 1), 0.01
    protocol, fields = WHOLE_IN_PARTS[name]
    path, body, _ = PROTOCOLS[protocol]
    with held_turn() as turn:
        monkeypatch.setattr(UpstreamGeneration, "result", lambda one: seen.append(turn.held) or result(one))
        response = client.post(path, json=body | fields)
    assert response.status_code == 200, response.text
    assert SAID in response.text
    assert not seen[0]


@pytest.fixture
def serve(opened: Open, environ: dict[str, str]) -> Callable[..., FlaskClient]:
    """Return a client of the service in front of the server, which is asked once for each request."""
    from app_production import create_app

    def made(**limits: float) -> FlaskClient:
        backend = opened(retries=0, breaker_failures=1000, **limits)
        models = ModelSet({"avibe": backend}, upstreams={"avibe": backend})
        return create_app(load_settings(environ, None), models, FakeMachine()).test_client()

    return made


@pytest.fixture
def client(serve: Callable[..., FlaskClient]) -> FlaskClient:
    """The same, with limits that nothing comes near."""
    return serve()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_answer_in_each_protocol(client: FlaskClient, name: str) -> None:
    """Whole, with the server's text."""
    path, body, text = PROTOCOLS[name]
    response = client.post(path, json=body)
    assert response.status_code == 200
    assert text(response.json) == SAID


def test_a_conversation_goes_on_and_the_oldest_turns_make_room(client: FlaskClient, server: FakeUpstream) -> None:
    """By an estimate, since the tokenizer is the server's."""
    turns = [{"prompt": str(number), "text": "x" * 4500} for number in range(4)]
    for history, dropped in ((turns[:2], 0), (turns, 2)):
        answer = client.post("/api/v1/text/generate", json={"prompt": "Hello", "history": history, "max_tokens": 100})
        assert (answer.status_code, answer.json and answer.json["data"]["dropped_turns"]) == (200, dropped)
    assert [message["content"] for message in server.heard[-1].body["messages"]][::2] == ["2", "3", "Hello"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_stream_in_each_protocol(client: FlaskClient, name: str) -> None:
    """All of the text, in events."""
    path, body, _ = PROTOCOLS[name]
    response = client.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert all(word in response.text for word in SAID.split())


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("html", 502, "upstream_error"),
        ("nonsense", 502, "upstream_error"),
        ("half", 502, "upstream_error"),
        ("reset", 502, "upstream_error"),
        ("401", 502, "upstream_error"),
        ("silent", 504, "deadline_exceeded"),
        ("stall", 504, "deadline_exceeded"),
        ("429", 503, "overloaded"),
    ],
)
def test_a_fault_has_the_status_of_its_kind_and_the_shape_of_its_protocol(
    serve: Callable[..., FlaskClient], server: FakeUpstream, fault: str, status: int, code: str
) -> None:
    """One answer, and none of the server's words."""
    client = serve(**limits_for(fault))
    for name, (path, body, _) in PROTOCOLS.items():
        server.script.faults = [fault]
        response = client.post(path, json=body)
        assert response.status_code == status, name
        assert response.json is not None
        assert CODES[name](response.json) == (ANTHROPIC[status] if name == "messages" else code)
        assert "secret" not in response.text
        assert ("Retry-After" in response.headers) == (status == 503)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_stream_that_fails_before_its_text_has_a_status(
    client: FlaskClient, server: FakeUpstream, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """As an answer without a stream has, though a response was prepared: it is told, counted and logged once."""
    path, body, _ = PROTOCOLS[name]
    server.script.faults = ["500"]
    caplog.set_level("INFO", "avito_ai.access")
    response = client.post(path, json={**body, "stream": True})
    assert (response.status_code, response.mimetype) == (502, "application/json")
    for header in ("X-Request-ID", "X-Response-Time", "Access-Control-Allow-Origin", "Content-Type", "Cache-Control"):
        assert len(response.headers.getlist(header)) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
    assert f"POST {path} 502 " in line
    metrics = client.get("/metrics").text
    assert f'http_requests_total{{method="POST",route="{path}",status="502"}} 1.0' in metrics
    assert f'route="{path}",status="200"' not in metrics
    failed = [line for line in metrics.splitlines() if "upstream_error" in line and "_created" not in line]
    assert {line.rpartition(" ")[2] for line in failed} - {"0.0"} == {"1.0"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_time_of_a_stream_is_that_to_its_beginning(client: FlaskClient, server: FakeUpstream, name: str) -> None:
    """Not that in which its response was prepared."""
    path, body, _ = PROTOCOLS[name]
    server.script.wait = 0.05
    told = client.post(path, json={**body, "stream": True}).headers["X-Response-Time"]
    assert float(told.removesuffix("s")) >= 0.05


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages"])
def test_a_prompt_that_the_server_finds_too_long_is_named_as_its_field(
    client: FlaskClient, server: FakeUpstream, name: str
) -> None:
    """In a stream as in a whole answer, with the words that clients look for."""
    path, body, _ = PROTOCOLS[name]
    said = []
    for stream in (False, True):
        server.script.always = "too long"
        response = client.post(path, json={**body, "stream": stream}, headers={"X-Request-ID": "mine"})
        assert response.status_code == 400
        said.append(response.json["error"])  # type: ignore[index]
    fields = {"chat": "messages", "completions": "prompt", "responses": "input"}
    if name in fields:
        assert said[0]["param"] == fields[name]
        assert "maximum context length" in said[0]["message"]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_stream_that_breaks_off_ends_with_one_error(client: FlaskClient, server: FakeUpstream, name: str) -> None:
    """Behind the text that came, as an event in the protocol's shape."""
    path, body, _ = PROTOCOLS[name]
    server.script.faults, server.script.gap = ["cut"], 0.02
    response = client.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert "The " in response.text
    said = response.text.count("broke off in its answer")
    assert said == (2 if name == "responses" else 1)  # there an error, and the failed response that has it
    assert "sleeps" not in response.text


def test_a_call_comes_as_a_call(client: FlaskClient, server: FakeUpstream) -> None:
    """In OpenAI's and in Anthropic's words, with arguments that were checked."""
    server.script = Script(
        deltas=[{"tool_calls": [{"index": 0, "id": "x", "function": {"name": "look", "arguments": '{"q": "a"}'}}]}],
        finish="tool_calls",
    )
    asked = {"model": "avibe", "messages": HELLO, "tools": [TOOL], "tool_choice": "required"}
    choice = client.post("/v1/chat/completions", json=asked).json["choices"][0]  # type: ignore[index]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"q": "a"}
    assert server.heard[0].body["tool_choice"] == "required"
    tool = {"name": "look", "input_schema": TOOL["function"]["parameters"]}  # type: ignore[index]
    told = client.post("/v1/messages", json={"model": "avibe", "max_tokens": 9, "messages": HELLO, "tools": [tool]})
    assert told.json is not None
    assert told.json["content"][0]["input"] == {"q": "a"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_that_a_stop_string_has_cut_has_no_tag_in_its_arguments(
    client: FlaskClient, server: FakeUpstream, streamed: bool
) -> None:
    """They are as far as the model had written them."""
    part = {"index": 0, "id": "x", "function": {"name": "look", "arguments": '{"q": "cut'}}
    last = event({"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "X"}]})
    server.script.raw = [event({"choices": [{"delta": {"tool_calls": [part]}}]}), last, event("[DONE]")]
    asked = {"model": "avibe", "messages": HELLO, "tools": [TOOL], "stop": ["X"], "stream": streamed}
    response = client.post("/v1/chat/completions", json=asked)
    assert response.status_code == 200
    assert "tool_call>" not in response.text
    if not streamed:
        (made,) = response.json["choices"][0]["message"]["tool_calls"]  # type: ignore[index]
        assert made["function"]["arguments"] == '{"q": "cut'


@pytest.mark.parametrize("strict", [{}, {"strict": True}, {"strict": False}, {"strict": None}])
def test_a_tool_is_as_strict_as_its_client_says(
    client: FlaskClient, server: FakeUpstream, strict: dict[str, bool | None]
) -> None:
    """In each protocol: servers hold free calls to their schema only where they are told to."""
    function = TOOL["function"] | strict  # type: ignore[operator]
    schema = {"name": "look", "input_schema": function["parameters"]}
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": HELLO, "tools": [{"type": "function", "function": function}]},
        "/v1/responses": {"input": "Hello", "tools": [{"type": "function", **function}]},
        "/v1/messages": {"max_tokens": 50, "messages": HELLO, "tools": [schema | strict]},
    }
    told = {name: value for name, value in strict.items() if value is not None}
    for path, body in asked.items():
        assert client.post(path, json=body | {"model": "avibe"}).status_code == 200, path
        (sent,) = server.heard[-1].body["tools"]
        assert sent == {"type": "function", "function": TOOL["function"] | told}, path  # type: ignore[operator]


def logprobs_of(path: str, body: Any) -> list[Any]:
    """Return the entries of tokens in an answer, or in one event of its stream."""
    if path == "/v1/responses":
        content = [part for item in body.get("output", ()) for part in item["content"]] or [body]
        return content[0].get("logprobs") or []
    found = (body["choices"] or [{}])[0].get("logprobs") or {}
    return found.get("content") or found.get("tokens") or []


@pytest.mark.parametrize("first", ["Hi", " "])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "logprobs": True}),
        ("/v1/completions", {"prompt": "Hello", "logprobs": 1}),
        ("/v1/responses", {"input": "Hello", "include": ["message.output_text.logprobs"]}),
    ],
)
def test_tokens_of_characters_that_never_become_whole_are_told(
    client: FlaskClient, server: FakeUpstream, path: str, asked: dict[str, Any], streamed: bool, first: str
) -> None:
    """vLLM sends them without a text; behind the last text there is none that they could come with."""

    def sent(text: str, **more: Any) -> bytes:
        token = {"token": text, "logprob": -1.0, "bytes": list(text.encode()), "top_logprobs": []}
        legacy = {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": [{text: -1.0}]}
        shape = {"text": text, "logprobs": legacy} if "prompt" in asked else {"delta": {"content": text}}
        return event({"choices": [{"logprobs": {"content": [token]}, **shape, **more}]})

    server.script.raw = [sent(first), sent(""), sent(""), sent("", finish_reason="length"), event("[DONE]")]
    response = client.post(
        path,
        json={"model": "avibe", "max_output_tokens" if "input" in asked else "max_tokens": 9}
        | asked
        | {"stream": streamed},
    )
    assert response.status_code == 200, response.text
    if not streamed:
        assert len(logprobs_of(path, response.json)) == 4
        return
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    deltas = [one for one in events if one.get("type", "response.output_text.delta") == "response.output_text.delta"]
    assert sum(len(logprobs_of(path, one)) for one in deltas) == 4


def test_an_answer_to_a_schema_is_checked(client: FlaskClient, server: FakeUpstream) -> None:
    """A server that ignores the schema gets its answer turned into an error, never a 200 with something else."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = {"model": "avibe", "messages": HELLO, "response_format": shape}
    assert client.post("/v1/chat/completions", json=asked).status_code == 502
    server.script.deltas = [{"content": '{"a": 1}'}]
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    bad = {**shape, "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    assert client.post("/v1/chat/completions", json=asked | {"response_format": bad}).status_code == 400


def test_a_clients_trace_is_passed_on_if_it_is_one(client: FlaskClient, server: FakeUpstream) -> None:
    """And nothing else of its headers."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    later = "01" + trace[2:]
    for sent, heard in (
        (trace, trace),
        (later + "-more", trace),
        (trace + "-more", None),
        ("00-" + "0" * 32 + "-" + "0" * 16 + "-00", None),
        ("nonsense\tx", None),
    ):
        client.post(
            "/v1/chat/completions",
            json=PROTOCOLS["chat"][1],
            headers={"traceparent": sent, "X-Forwarded-Host": "evil", "Cookie": "a=b", "X-Request-ID": "mine-1"},
        )
        headers = server.heard[-1].headers
        assert headers.get("traceparent") == heard
        assert headers["x-request-id"] == "mine-1"
        assert not {"cookie", "x-forwarded-host", "authorization"} & {*headers}


def test_operators_see_each_server(client: FlaskClient, server: FakeUpstream) -> None:
    """Health, metrics and the page tell the same, and readiness follows the breakers."""
    client.post("/v1/chat/completions", json=PROTOCOLS["chat"][1])
    for path in ("/api/health/upstreams", "/health/circuit-breakers"):
        told = client.get(path).json
        assert told is not None
        assert told["status"] == "healthy"
        (shown,) = told["upstreams"]["avibe"]["servers"]
        assert (shown["url"], shown["state"], shown["requests"]) == (server.url, "closed", 1)
    assert 'avito_ai_upstream_requests_total{model="avibe",server="0"} 1.0' in client.get("/metrics").text
    assert server.url in client.get("/status").text
    assert client.get("/api/health/upstreams", environ_base={"REMOTE_ADDR": "203.0.113.9"}).status_code == 403


def test_readiness_follows_the_breakers(opened: Open, environ: dict[str, str], server: FakeUpstream) -> None:
    """503 while no server can be asked, and each route refuses at once with the seconds to wait."""
    from app_production import create_app

    server.script.always = "500"
    backend = opened(breaker_seconds=30, probe_seconds=60)
    models = ModelSet({"avibe": backend}, upstreams={"avibe": backend})
    client = create_app(load_settings(environ, None), models, FakeMachine()).test_client()
    ready = client.get("/api/health/ready")
    assert ready.json is not None
    assert (ready.status_code, ready.json["models"]["avibe"]["status"]) == (503, "stalled")
    refused = client.post("/v1/chat/completions", json=PROTOCOLS["chat"][1])
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    told = client.get("/api/health/upstreams").json
    assert told is not None
    assert told["status"] == "unhealthy"
    assert client.get("/api/health/live").status_code == 200


@pytest.mark.parametrize("role", ["first", "spare"])
def test_no_answer_is_kept_as_the_checkpoints_that_may_be_the_servers(
    opened: Open, environ: dict[str, str], role: str
) -> None:
    """Nor does an answer say that it might be: each request is asked, of whichever can answer it."""
    from app_production import create_app

    own, elsewhere = ScriptedBackend(text="Ours."), opened(role=role, retries=0)
    models = ModelSet({"avibe": StandingIn(own, elsewhere)}, upstreams={"avibe": elsewhere})
    settings = load_settings(environ | {"ANSWER_CACHE_MIB": "1"}, None)
    client = create_app(settings, models, FakeMachine()).test_client()
    path, body, text = PROTOCOLS["chat"]
    for busy in (True, False):
        own.refusal = Overloaded("Full.", 3) if busy else None
        response = client.post(path, json=body | {"temperature": 0})
        assert text(response.json) == (SAID if busy or role == "first" else "Ours.")
        assert "X-Cache" not in response.headers


def test_further_models_stand_beside_those_of_the_service(
    server: FakeUpstream, other: FakeUpstream, environ: dict[str, str], tmp_path: Path
) -> None:
    """Built from the settings: listed, asked by their names, priced; one that is away takes readiness from nobody."""
    from app_production import create_app
    from models import build_models

    path = tmp_path / "upstreams.toml"
    tables = [
        f'[[upstream]]\nname = "{name}"\nurls = "{url}"\nmodel = "m-{name}"\nprice = "1/2"\n'
        for name, url in (("big", other.url), ("away", "http://127.0.0.1:9/v1"))
    ]
    path.write_text("\n".join(tables))
    elsewhere = {"VIBE_UPSTREAM": server.url, "VISION_UPSTREAM": server.url, "UPSTREAMS_FILE": str(path)}
    settings = load_settings(environ | elsewhere, None, lambda: False)
    models = build_models(settings)
    client = create_app(settings, models, FakeMachine()).test_client()
    models.start()
    try:
        listed = client.get("/v1/models").json
        assert listed is not None
        assert {"avibe", "avision", "big", "away"} <= {one["id"] for one in listed["data"]}
        told = client.post("/v1/chat/completions", json={"model": "big", "messages": HELLO})
        assert (told.status_code, told.headers["X-Model"], told.headers["X-Cost"]) == (200, "big", "0.000033")
        assert other.heard[0].body["model"] == "m-big"
        assert not server.heard
        refused = client.post("/v1/chat/completions", json={"model": "away", "messages": HELLO})
        assert refused.status_code == 503
        assert client.get("/api/health/ready").status_code == 200
    finally:
        models.stop(1)
