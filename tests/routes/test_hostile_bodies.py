"""Bodies that no honest client sends: half characters, thousands of mistakes or values, prompts that cannot fit."""

import json
from io import BytesIO

import pytest
from pydantic import ValidationError as PydanticError

import routes.openai.views
from benchmarks.proof import bodies
from edge.route_table import JSON, ROUTES
from routes.json_text import JsonLimits
from routes.parsing import PIECE_BYTES

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def ask(client, path=CHAT, **fields):
    prompt = {"messages": HELLO} if path == CHAT else {"prompt": "Hello"}
    return client.post(path, json={"model": "avibe"} | prompt | fields)


def ask_ascii(client, path, body):
    """Send JSON in ASCII, which can express what UTF-8 cannot."""
    return client.post(path, data=json.dumps(body), content_type="application/json")


def refused(response, field, code="validation_error"):
    """Check that a request was refused as the client's mistake, with the field at fault."""
    error = response.json["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"].startswith(field)


READ_AS_JSON = [name.split()[1] for name, row in ROUTES.items() if JSON in row.bodies]
HALF = "hi \ud83d"  # half of an emoji, as JavaScript's slice makes it
TOOL = {"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}
HALVES = [
    ("messages[0].content", {"messages": [{"role": "user", "content": HALF}]}),
    ("messages[0].content", {"messages": [{"role": "system", "content": HALF}]}),
    ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}),
    ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "", "tool_call_id": HALF}]}),
    (
        "messages[0].tool_calls[0].function.arguments",
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": HALF}}]}
            ]
        },
    ),
    ("tools[0].function.description", {"tools": [TOOL | {"function": TOOL["function"] | {"description": HALF}}]}),
    (
        "messages[0].tool_calls[0].id",
        {"messages": [{"role": "assistant", "tool_calls": [{"id": HALF, "function": {"name": "f", "arguments": ""}}]}]},
    ),
    ("messages[0].content[0].image_url.url", {"messages": [{"content": [{"image_url": {"url": HALF}}]}]}),
    (
        "tools[0].function.parameters.properties.hi \ufffd",
        {"tools": [TOOL | {"function": {"name": "f", "parameters": {"properties": {HALF: {"type": "string"}}}}}]},
    ),
    ("tools[1].function.parameters.enum[1]", {"tools": [TOOL, {"function": {"parameters": {"enum": ["a", HALF]}}}]}),
    ("response_format.schema.enum[0]", {"response_format": {"schema": {"enum": [HALF]}}}),
    ("response_format.schema.$defs.hi \ufffd", {"response_format": {"schema": {"$defs": {HALF: {}}}}}),
    ("metadata.hi \ufffd", {"metadata": {HALF: 1}}),
    ("logit_bias.hi \ufffd", {"logit_bias": {HALF: 1}}),
    ("hi \ufffd", {HALF: 1}),
    ("stop", {"stop": HALF}),
    ("user", {"user": HALF, "stream": True}),
]


@pytest.mark.parametrize(("field", "fields"), HALVES)
def test_half_a_character_is_named(client, avibe, field, fields):
    """Whatever field it stands in: 400, once and for all where JSON is read."""
    refused(ask_ascii(client, CHAT, {"model": "avibe", "messages": HELLO} | fields), field)
    assert avibe.submitted == []


@pytest.mark.parametrize("path", READ_AS_JSON)
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (r'{"a": [{"b\ud83d": 1}]}', "a[0].b\ufffd"),
        (r'{"\udc00\ud83d": 1}', "\ufffd\ufffd"),
        ('{"a": [1, 1e999]}', "a[1]"),
        ('{"a": {"b": NaN}}', "a.b"),
        ('{"prompt": -Infinity}', "prompt"),
        ('{"max_tokens": 1' + "0" * 400 + "}", "max_tokens"),
    ],
)
def test_what_json_cannot_express_is_named_on_every_route(client, path, body, field):
    """Half characters in names and values, and numbers that are none: 400, whatever the shape of the error."""
    response = client.post(path, data=body, content_type="application/json")
    assert response.status_code == 400
    assert f'"{field} ' in json.dumps(response.json, ensure_ascii=False)


@pytest.mark.parametrize("path", sorted(set(READ_AS_JSON) - {"/api/v1/text/batch"}))
def test_half_a_character_in_a_value_is_named_on_every_route(client, path):
    """But for a batch, whose prompts fail one by one."""
    response = ask_ascii(client, path, {"a": {"b": HALF}})
    assert response.status_code == 400
    assert '"a.b has characters' in response.text


@pytest.mark.parametrize("field", ["messages", "tools", "stop", "logit_bias", "prompt", "more"])
def test_one_mistake_is_made_of_many(client, field):
    """Pydantic builds an error for each mistake, with the lock held; it is stopped at the first."""
    many = {f"k{number}": 1 for number in range(5000)}
    body = {
        "messages": {"messages": [{"role": "user", "content": [5] * 5000} | many] * 3},
        "tools": {"tools": [TOOL | many] * 3},
        "stop": {"stop": [1] * 5000},
        "logit_bias": {"logit_bias": many},
        "prompt": {"prompt": [1, *["x"] * 5000]},
        "more": many,
    }[field]
    models = client.application.extensions["services"].openai_models
    model = models.completion if field == "prompt" else models.chat
    with pytest.raises(PydanticError) as caught:
        model.model_validate({"model": "avibe", "messages": HELLO} | body)
    assert caught.value.error_count() <= 2
    blamed = "k0" if field == "more" else field
    refused(ask(client, TEXT if field == "prompt" else CHAT, **body), blamed)


def test_a_body_of_more_values_than_any_request_is_not_parsed(client, avibe):
    """413, for lists, objects, strings and numbers."""
    for item in (b"1,", b"{},", b"[],", b'"",'):
        body = b'{"model": "avibe", "messages": [' + item * 400_000 + b"1]}"
        response = client.post(CHAT, data=body, content_type="application/json")
        assert (response.status_code, response.json["error"]["code"]) == (413, "payload_too_large")
    assert avibe.submitted == []


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["tools", "many tools", "content", "many messages", "objects", "stop strings"])
def test_a_body_beyond_its_limits_is_refused_from_its_beginning(client, avibe, monkeypatch, kind, chunked):
    """No more of it is read than the longest text of a valid request, and one piece."""
    limits = JsonLimits(values=2000, containers=1000, text_bytes=200_000)
    monkeypatch.setattr(routes.openai.views, "json_limits", lambda _: limits)
    stream = BytesIO(dict(bodies.large(1_000_000))[kind])
    length = {} if chunked else {"content_length": len(stream.getvalue())}
    told = {"wsgi.input_terminated": chunked, "gunicorn.socket": None}
    response = client.post(CHAT, input_stream=stream, content_type="application/json", environ_overrides=told, **length)
    assert (response.status_code, response.json["error"]["code"]) == (413, "payload_too_large")
    assert stream.tell() <= limits.text_bytes + PIECE_BYTES
    assert avibe.submitted == []


@pytest.mark.parametrize("field", ["description", "name", "arguments"])
def test_what_a_template_renders_is_bounded(client, avibe, field):
    """Not contents alone: definitions, names and arguments that cannot fit are refused before they are rendered."""
    long = "word " * 200_000
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"} | {field: long}}
    body = {
        "description": {"tools": [TOOL | {"function": TOOL["function"] | {"description": long}}]},
        "name": {"messages": [*HELLO, {"role": "assistant", "tool_calls": [called]}]},
        "arguments": {"messages": [*HELLO, {"role": "assistant", "tool_calls": [called]}]},
    }[field]
    refused(ask(client, **body), "messages", "context_length_exceeded")
    assert avibe.submitted == []


@pytest.mark.parametrize("path", ["/avibe", "/avision", "/language", "/api/v1/image/analyze"])
@pytest.mark.parametrize(
    "disposition", ['form-data; filename="x"', 'form-data; name; filename="x"', 'form-data; name=""; filename=x']
)
def test_a_file_without_a_name_is_a_field_that_there_is_not(client, path, disposition):
    """The library gives it None as its name."""
    body = f"--b\r\nContent-Disposition: {disposition}\r\n\r\ny\r\n--b--\r\n"
    assert client.post(path, data=body, content_type="multipart/form-data; boundary=b").status_code == 400
