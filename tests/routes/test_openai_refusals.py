"""/v1 over scripted models: refusals and what they are charged."""

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import DeadlineExceeded, EngineDead, ModelError
from engine.types import Status
from tests.routes.test_openai import CHAT, HELLO, TEXT, TOOL, URL, ask, image_part, refused, said


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def nested(levels):
    return {"items": nested(levels - 1)} if levels else {}


BOUNDS = "response_format.json_schema.schema"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
MISTAKES = [
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0]"),
    ({"messages": ["x"]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}, "messages[0].images"),
    ({"messages": [{"role": "system", "content": "x", "tools": [TOOL]}, *HELLO]}, "messages[0].tools"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x", "prefix": True}]}, "messages[1].prefix"),
    ({"messages": [*HELLO, {"role": "assistant", "audio": {"id": "a"}}]}, "messages[1].audio"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 1}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": said({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": said({"type": "text", "text": 1})}, "messages[0].content[0].text"),
    ({"messages": said({"type": "input_audio"})}, "messages[0].content[0]"),
    ({"messages": said(image_part())}, "messages[0].content[0].image_url.url"),
    ({"messages": said({"type": "image_url", "image_url": URL})}, "messages[0].content[0].image_url"),
    ({"messages": said({"type": "image_url", "image_url": 5})}, "messages[0].content[0].image_url"),
    ({"messages": said({"type": "thinking", "thinking": "x"})}, "messages[0].content[0]"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": 1e-40}, "repetition_penalty"),  # it would make logits infinite
    ({"logit_bias": [[1, 1]]}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"one": 1}}, "logit_bias.one"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"logprobs": 3}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
    ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs.add_generation_prompt"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"unknown": True}, "unknown"),
    ({"text": 1, "type": "text"}, "text"),
    ({"branch:text": 1}, "branch:text"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object", "schema": []}}, "response_format.schema"),
    ({"response_format": SCHEMA}, "response_format"),
    ({"response_format": schema_format({"title": "x" * 65536})}, BOUNDS),
    ({"response_format": schema_format(nested(32))}, BOUNDS),
    ({"response_format": schema_format({"enum": list(range(2000))})}, BOUNDS),
    (
        {"tools": [TOOL], "tool_choice": "required", "chat_template_kwargs": {"enable_thinking": True}},
        "chat_template_kwargs.enable_thinking",
    ),
    ({"response_format": SCHEMA, "ignore_eos": True}, "ignore_eos"),
    ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
    ({"tools": [{"type": "web"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "web"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": nested(40)}}],
            "tool_choice": "required",
        },
        "tools[0].function.parameters",
    ),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
]


@pytest.mark.parametrize(("fields", "param"), MISTAKES, ids=[f"{n}-{param}" for n, (_, param) in enumerate(MISTAKES)])
def test_each_mistake_is_named(client, avibe, fields, param):
    """400 with the field in `param` and in the message, and nothing is generated."""
    message, blamed = refused(ask(client, **fields), 400, "validation_error")
    assert blamed == param
    assert param.split("[")[0].split(".")[0] in message or "images" in message or "form" in message
    assert avibe.submitted == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": "x", "echo": "yes"}, "echo"),
        ({"prompt": "x", "echo": 0}, "echo"),
        ({"prompt": "x", "best_of": True}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 6}, "logprobs"),
        ({"prompt": "x", "messages": HELLO}, "messages"),
        ({"prompt": "x", "stream_options": 1}, "stream_options"),
    ],
)
def test_each_mistake_of_a_plain_completion_is_named(client, avibe, fields, param):
    """Unsupported fields that would change the answer are refused by name."""
    response = client.post(TEXT, json={"model": "avibe"} | fields)
    assert refused(response, 400, "validation_error")[1] == param
    assert avibe.submitted == []


def test_texts_that_cannot_fit_are_refused_without_tokenizing(client, avibe):
    """The code is OpenAI's for a conversation that is too long."""
    long = "x" * (128 * 4096 + 1)
    assert refused(ask(client, messages=[{"role": "user", "content": long}]), 400, "context_length_exceeded")
    response = client.post(TEXT, json={"model": "avibe", "prompt": ["a", long]})
    assert refused(response, 400, "context_length_exceeded")[1] == "prompt"
    assert avibe.submitted == []


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("https://example.com/a.png", 400, "validation_error"),
        ("data:image/png;base64,!!!", 400, "validation_error"),
        ("data:text/plain;base64,aGVsbG8=", 415, "unsupported_media_type"),
    ],
)
def test_only_images_in_data_urls_are_read(client, url, status, code):
    """Nothing is fetched from other addresses; `param` names the part."""
    response = ask(client, model="avision", messages=said(image_part(url)))
    message, param = refused(response, status, code)
    assert param == "messages[0].content[0].image_url.url"


def test_a_request_has_at_most_four_images(client, avision):
    """The fifth is refused, in whichever message it is."""
    five = [*said(*[image_part()] * 3), *said(*[image_part()] * 2)]
    assert refused(ask(client, model="avision", messages=five), 400, "validation_error")[1].startswith("messages[1]")
    assert ask(client, model="avision", messages=said(*[image_part()] * 4)).status_code == 200


def test_avision_uses_no_tools(client):
    """Its chat template has none. Tools that are not to be used change nothing."""
    for choice in (None, "auto", "required"):
        response = ask(client, model="avision", tools=[TOOL], tool_choice=choice)
        assert refused(response, 400, "validation_error")[1] == "tools"
    assert ask(client, model="avision", tools=[TOOL], tool_choice="none").status_code == 200


def test_every_failure_has_the_same_fields(client, avibe):
    """404, 405, 413, 415, 500, 503 and 504, and a body that is no JSON."""
    refused(client.get("/v1/nothing"), 404, "not_found")
    refused(client.get(CHAT), 405, "method_not_allowed")
    refused(client.post(CHAT, data=b"x" * (64 * 2**20 + 1), content_type="application/json"), 413, "payload_too_large")
    refused(client.post(CHAT, data="hi", content_type="text/plain"), 415, "unsupported_media_type")
    refused(client.post(CHAT, data="{", content_type="application/json"), 400, "validation_error")
    for error, status, code in (
        (ModelError("It failed."), 500, "model_error"),
        (EngineDead("It died."), 500, "model_error"),
        (DeadlineExceeded("Too late."), 504, "deadline_exceeded"),
    ):
        avibe.failure = error
        assert refused(ask(client), status, code, "server_error")[0] == error.message
    avibe.failure, avibe.capacity = None, 0
    response = ask(client)
    refused(response, 503, "overloaded", "server_error")
    assert response.headers["Retry-After"] == "3"
    avibe.become(Status.LOADING)
    refused(ask(client), 503, "not_ready", "server_error")
    refused(ask(client, response_format=SCHEMA), 503, "not_ready", "server_error")


def test_a_refused_choice_aborts_the_others(client, avibe):
    """All choices are generated or none."""
    avibe.hold, avibe.capacity = True, 2
    refused(ask(client, n=3), 503, "overloaded", "server_error")
    assert len(avibe.aborted) == 2


@pytest.mark.parametrize(
    ("path", "fields", "param", "told"),
    [
        (CHAT, {"messages": HELLO, "n": 8}, "n", "n must be at most 7:"),
        (TEXT, {"prompt": "a", "n": 8}, "n", "n must be at most 7:"),
        (TEXT, {"prompt": [1, 2], "n": 8}, "n", "n must be at most 7:"),
        (TEXT, {"prompt": ["a", "b"], "n": 4}, "n", "n must be at most 3 for 2 texts:"),
        (TEXT, {"prompt": [[1], [2], [3]], "n": 3}, "n", "n must be at most 2 for 3 texts:"),
        (TEXT, {"prompt": ["a"] * 8}, "prompt", "prompt must have at most 7 texts:"),
        (TEXT, {"prompt": ["a"] * 32, "n": 8}, "prompt", "prompt must have at most 7 texts:"),
    ],
)
def test_what_one_client_can_never_have_is_a_mistake(client, avibe, path, fields, param, told):
    """No later try would succeed, so it is no lack of capacity: the field is named, with the most that fits."""
    avibe.most = 7
    message, named = refused(client.post(path, json={"model": "avibe"} | fields), 400, "validation_error")
    assert (named, message) == (param, f"{told} one client may have 7 answers of this model at once.")
    assert avibe.submitted == []


@pytest.mark.parametrize(
    ("path", "fields"), [(CHAT, {"messages": HELLO, "n": 7}), (TEXT, {"prompt": ["a"] * 3, "n": 2})]
)
def test_what_fits_though_not_now_is_a_lack_of_capacity(client, avibe, path, fields):
    """It is answered once there is room."""
    avibe.most, avibe.capacity = 7, 0
    refused(client.post(path, json={"model": "avibe"} | fields), 503, "overloaded", "server_error")
    avibe.capacity = 1000
    assert client.post(path, json={"model": "avibe"} | fields).status_code == 200


@pytest.fixture
def limited(models, machine):
    """A client of a service with a budget of ten a minute."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "10", "RATE_LIMIT_PER_HOUR": "0"}, None)
    return create_app(settings, models, machine).test_client()


def test_more_answers_than_one_client_can_have_are_charged_as_one(limited, avibe):
    """As what else is wrong with a body."""
    avibe.most = 3
    for left in (9, 8):
        response = ask(limited, n=4)
        assert (response.status_code, response.headers["RateLimit-Remaining"]) == (400, str(left))


def test_answers_are_charged_by_their_number(limited):
    """n costs n, a list of prompts one each, an invalid body one; a request over the limit costs nothing."""
    assert ask(limited, n=3).headers["RateLimit-Remaining"] == "7"
    assert ask(limited, temperature=9).headers["RateLimit-Remaining"] == "6"
    text = {"model": "avibe", "prompt": ["a", "b"], "n": 2}
    assert limited.post(TEXT, json=text).headers["RateLimit-Remaining"] == "2"
    response = ask(limited, n=3)
    refused(response, 429, "rate_limit_exceeded", "rate_limit_error")
    assert str(response.json["error"]["retry_after"]) == response.headers["Retry-After"]
    assert int(response.headers["Retry-After"]) > 0
    assert ask(limited, n=2).status_code == 200
    refused(ask(limited), 429, "rate_limit_exceeded", "rate_limit_error")
    assert limited.get("/v1/models").status_code == 200
