"""/v1 over scripted models: shapes, defaults, refusals and budgets. The real client is tried in tests/e2e."""

import base64
import json

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import DeadlineExceeded, EngineDead, ModelError
from engine.types import Status, TokenLogprob
from models import ModelSet
from tests.fakes import ScriptedBackend, picture

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
URL = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"


def ask(client, **asked):
    """Send a chat and return the response."""
    return client.post(CHAT, json={"model": "avibe", "messages": HELLO} | asked)


def refused(response, status, code, kind="invalid_request_error"):
    """Check a failure's status and exact shape; return its sentence and the field to blame."""
    assert response.status_code == status
    assert set(response.json) == {"error"}
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, code)
    return error["message"], error["param"]


def image_part(url=URL, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def said(*parts):
    return [{"role": "user", "content": list(parts)}]


# --- models ---


def test_models_are_listed_by_their_names_and_by_what_is_loaded(settings, machine):
    """A demo is found by either; nothing has to be loaded for the list."""
    models = ModelSet({"avibe": ScriptedBackend("avibe", demo=True), "avision": ScriptedBackend("avision")})
    models.get("avibe").become(Status.LOADING)
    client = create_app(settings, models, machine).test_client()
    listed = client.get("/v1/models").json
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["avibe", "avibe-demo", "avision"]
    assert client.get("/v1/models/avibe-demo").json == listed["data"][1]
    assert {entry["root"] for entry in listed["data"][:2]} == {"avibe-demo"}


@pytest.mark.parametrize("name", ["gpt-4o", "AVIBE", "avibe/x", "models/avibe"])
def test_an_unknown_model_is_not_found(client, name):
    """404 in OpenAI's shape, for the catalogue and for a request alike."""
    assert refused(client.get(f"/v1/models/{name}"), 404, "model_not_found")[1] == "model"
    assert refused(ask(client, model=name), 404, "model_not_found")[1] == "model"


# --- whole answers ---


def test_a_chat_has_exactly_the_promised_shape(client):
    """Names and nesting are what OpenAI's clients read."""
    response = client.post(CHAT, json={"model": "avibe", "messages": HELLO}, headers={"X-Request-ID": "mine"})
    body = response.json
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "id": "chatcmpl-mine",
        "object": "chat.completion",
        "model": "avibe",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "An answer.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert response.headers["X-Model"] == "avibe"


def test_several_choices_count_their_prompt_once(client, avibe):
    """n answers, each a sequence of its own with a number of its own; their tokens are added."""
    body = ask(client, n=3, seed=5).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["completion_tokens"] == 15
    assert [request.sampling.seed for request in avibe.submitted] == [5, 6, 7]
    assert len({request.request_id for request in avibe.submitted}) == 3


def test_several_prompts_are_continued(client, avibe):
    """Texts or tokens; every prompt is counted, and every choice of it once."""
    body = client.post(TEXT, json={"model": "avibe", "prompt": ["a", "b"], "n": 2}).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 14
    assert [request.prompt.text for request in avibe.submitted] == ["a", "a", "b", "b"]
    client.post(TEXT, json={"model": "avibe", "prompt": [1, 2]})
    client.post(TEXT, json={"model": "avibe", "prompt": [[3], [4]]})
    assert [request.prompt.token_ids for request in avibe.submitted[4:]] == [(1, 2), (3,), (4,)]


def test_what_is_absent_takes_the_checkpoints_own_values_except_temperature(settings, machine):
    """null counts as absent."""
    own = {"top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05, "temperature": 0.1}
    backend = ScriptedBackend("avibe", generation_defaults=own)
    client = create_app(settings, ModelSet({"avibe": backend}), machine).test_client()
    ask(client, temperature=None, top_p=None, max_tokens=None, stop=None, seed=None)
    sampling = backend.only.sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0.8, 20, 0.1, 1.05)
    assert (sampling.temperature, sampling.max_tokens, sampling.stop, sampling.seed) == (0.7, 256, (), None)


def test_what_is_asked_for_reaches_the_engine(client, avibe):
    """Every sampling field, in the engine's words."""
    asked = {
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.2,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.5,
        "logit_bias": {"3": -100, "4": 2.5},
        "seed": -4,
        "stop": ["a", "b"],
        "logprobs": True,
        "top_logprobs": 2,
        "ignore_eos": True,
    }
    assert ask(client, **asked).status_code == 200
    sampling = avibe.only.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (9, 0.0, 0.5, 0)
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 1.0, -1.0)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.5, {3: -100.0, 4: 2.5})
    assert (sampling.seed, sampling.stop, sampling.logprobs, sampling.ignore_eos) == (-4, ("a", "b"), 2, True)
    assert ask(client, stop="end").status_code == 200
    assert avibe.submitted[-1].sampling.stop == ("end",)


def test_log_probabilities_are_shown_in_both_shapes(client, avibe):
    """Tokens without a text are left out; half a character has no bytes; minus infinity is a number."""
    avibe.logprobs = [
        TokenLogprob(1, "Да", -0.5, ((1, "Да", -0.5), (2, "\ufffd", float("-inf")))),
        TokenLogprob(3, "", -0.1),
    ]
    (token,) = ask(client, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("Да", -0.5, [208, 148, 208, 176])
    assert token["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9999.0, "bytes": None}
    told = client.post(TEXT, json={"model": "avibe", "prompt": "x", "logprobs": 2}).json["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["Да"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"Да": -0.5, "\ufffd": -9999.0}],
        "text_offset": [0],
    }


# --- conversations ---


def test_every_role_reaches_the_template(client, avibe):
    """A developer speaks as the system; calls and their results keep what the template needs."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": None},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "refusal": "No."},
    ]
    assert ask(client, messages=turns).status_code == 200
    messages = avibe.only.prompt.messages
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[1] == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert messages[2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert messages[3] == {"role": "tool", "content": "found", "tool_call_id": "c1"}
    assert messages[4]["content"] == [{"type": "text", "text": "No."}]
    assert messages[5]["content"] == "No."


def test_pictures_of_all_turns_are_read_in_order(client, avision):
    """Each stands where its part stood."""
    first, second = picture("red", (10, 20)), picture("blue", (30, 40))
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (first, second)]
    turns = [*said(image_part(urls[0]), {"type": "text", "text": "?"}), *said(image_part(urls[1], detail="high"))]
    assert ask(client, model="avision", messages=turns).status_code == 200
    prompt = avision.only.prompt
    assert [(image.width, image.height) for image in prompt.images] == [(10, 20), (30, 40)]
    assert prompt.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "?"}]


@pytest.mark.parametrize(
    ("asked", "thinking"),
    [
        ({}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, False),
        ({"chat_template_kwargs": {}}, False),
    ],
)
def test_reasoning_is_off_unless_asked_for(client, avibe, asked, thinking):
    """By the template's own switch, which wins, or by the effort."""
    assert ask(client, **asked).status_code == 200
    assert avibe.only.prompt.thinking is thinking


def test_a_thought_is_shown_apart(client, avibe):
    """Only where reasoning was asked for; otherwise the text is the text."""
    avibe.text = "<think>\nHm.\n</think>\n\nYes."
    thought = ask(client, reasoning_effort="high").json["choices"][0]["message"]
    assert (thought["reasoning_content"], thought["content"]) == ("Hm.", "Yes.")
    assert ask(client).json["choices"][0]["message"]["content"] == avibe.text


def test_calls_are_shown_as_calls(client, avibe):
    """Every call of the answer, and the reason; a cut answer says so all the same."""
    avibe.text = 'Wait.\n<tool_call>\n{"name": "look", "arguments": {"at": "я"}}\n</tool_call>'
    (choice,) = ask(client, tools=[TOOL]).json["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Wait.")
    assert (call["type"], call["function"]) == ("function", {"name": "look", "arguments": '{"at": "я"}'})
    assert avibe.submitted[0].prompt.tools == (TOOL,)
    avibe.finish_reason = "length"
    assert ask(client, tools=[TOOL]).json["choices"][0]["finish_reason"] == "length"
    assert ask(client, tools=[TOOL], tool_choice="none").json["choices"][0]["message"]["content"] == avibe.text
    assert avibe.submitted[-1].prompt.tools == ()


# --- refusals ---


def form(schema):
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
    ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "messages[0].mood"),
    ({"messages": [*HELLO, {"role": "assistant"}]}, "messages[1].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": said({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": said({"type": "text", "text": 1})}, "messages[0].content[0].text"),
    ({"messages": said({"type": "input_audio"})}, "messages[0].content[0]"),
    ({"messages": said(image_part())}, "messages[0].content[0].image_url.url"),
    ({"messages": said({"type": "image_url", "image_url": URL})}, "messages[0].content[0].image_url"),
    ({"messages": HELLO * 1025}, "messages"),
    ({"max_tokens": 2049}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"one": 1}}, "logit_bias.one"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every"),
    ({"logprobs": 3}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 1}, "top_logprobs"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"chat_template_kwargs": {"style": 1}}, "chat_template_kwargs.style"),
    ({"modalities": ["text", "audio"]}, "modalities[1]"),
    ({"verbosity": "low"}, "verbosity"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"prediction": {}}, "prediction"),
    ({"functions": []}, "functions"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"unknown": None}, "unknown"),
    ({"user": 5}, "user"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}, "response_format.json_schema.name"),
    ({"response_format": SCHEMA}, "response_format"),
    ({"response_format": form({"title": "x" * 65536})}, BOUNDS),
    ({"response_format": form(nested(32))}, BOUNDS),
    ({"response_format": form({"enum": list(range(2000))})}, BOUNDS),
    ({"response_format": SCHEMA, "reasoning_effort": "high"}, "reasoning_effort"),
    ({"response_format": SCHEMA, "ignore_eos": True}, "ignore_eos"),
    ({"response_format": SCHEMA, "tools": [TOOL]}, "response_format"),
    ({"response_format": SCHEMA, "tools": [TOOL], "tool_choice": "required"}, "response_format"),
    ({"tools": [{"type": "web"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [TOOL] * 65}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": nested(40)}}],
            "tool_choice": "required",
        },
        "tools",
    ),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
]


@pytest.mark.parametrize(("asked", "param"), MISTAKES, ids=[f"{n}-{param}" for n, (_, param) in enumerate(MISTAKES)])
def test_each_mistake_is_named(client, avibe, asked, param):
    """400 with the field in `param` and in the sentence, and nothing is generated."""
    message, blamed = refused(ask(client, **asked), 400, "validation_error")
    assert blamed == param
    assert param.split("[")[0].split(".")[0] in message or "images" in message or "form" in message
    assert avibe.submitted == []


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "echo": 0}, "echo"),
        ({"prompt": "x", "best_of": True}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 6}, "logprobs"),
        ({"prompt": "x", "messages": HELLO}, "messages"),
        ({"prompt": "x", "stream_options": {}}, "stream_options"),
    ],
)
def test_each_mistake_of_a_plain_completion_is_named(client, avibe, asked, param):
    """What would change the answer and is not supported is refused by name."""
    response = client.post(TEXT, json={"model": "avibe"} | asked)
    assert refused(response, 400, "validation_error")[1] == param
    assert avibe.submitted == []


def test_neutral_values_of_what_is_not_supported_are_taken(client):
    """Programs that spell the defaults out need not be changed."""
    chat = {"modalities": ["text"], "verbosity": "medium", "function_call": "none", "audio": None, "functions": None}
    assert ask(client, **chat, response_format={"type": "text"}, tool_choice="none").status_code == 200
    text = {"model": "avibe", "prompt": "x", "best_of": 1, "echo": False, "suffix": ""}
    assert client.post(TEXT, json=text).status_code == 200


def test_texts_that_no_context_holds_are_refused_untokenized(client, avibe):
    """The code tells a client to shorten the conversation."""
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
def test_only_pictures_in_data_urls_are_read(client, url, status, code):
    """Nothing is fetched from elsewhere; the part to blame is named where there is one."""
    response = ask(client, model="avision", messages=said(image_part(url)))
    message, param = refused(response, status, code)
    assert param == ("messages[0].content[0].image_url.url" if status == 400 else None)


def test_a_request_has_at_most_four_pictures(client, avision):
    """The fifth is one too many, in whatever turn it stands."""
    five = [*said(*[image_part()] * 3), *said(*[image_part()] * 2)]
    assert refused(ask(client, model="avision", messages=five), 400, "validation_error")[1].startswith("messages[1]")
    assert ask(client, model="avision", messages=said(*[image_part()] * 4)).status_code == 200


def test_avision_uses_no_tools(client):
    """Its checkpoint's template knows none."""
    assert refused(ask(client, model="avision", tools=[TOOL]), 400, "validation_error")[1] == "tools"


def test_every_failure_has_the_one_shape(client, avibe):
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


def test_choices_that_find_no_place_take_the_others_along(client, avibe):
    """All or none: what was begun is aborted."""
    avibe.hold, avibe.capacity = True, 2
    refused(ask(client, n=3), 503, "overloaded", "server_error")
    assert len(avibe.aborted) == 2


@pytest.fixture
def limited(models, machine):
    """A client of a service with a budget of ten a minute."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "10", "RATE_LIMIT_PER_HOUR": "0"}, None)
    return create_app(settings, models, machine).test_client()


def test_answers_are_charged_by_their_number(limited):
    """n costs n, a list of prompts one each, a body that cannot be read one; a refusal nothing."""
    assert ask(limited, n=3).headers["RateLimit-Remaining"] == "7"
    assert ask(limited, temperature=9).headers["RateLimit-Remaining"] == "6"
    text = {"model": "avibe", "prompt": ["a", "b"], "n": 2}
    assert limited.post(TEXT, json=text).headers["RateLimit-Remaining"] == "2"
    response = ask(limited, n=3)
    refused(response, 429, "rate_limit_exceeded", "rate_limit_error")
    assert int(response.headers["Retry-After"]) > 0
    assert ask(limited, n=2).status_code == 200
    refused(ask(limited), 429, "rate_limit_exceeded", "rate_limit_error")
    assert limited.get("/v1/models").status_code == 200


def test_failures_and_answers_are_counted_for_their_model(client, avibe):
    """The figures know which model a request of /v1 asked for."""
    ask(client, n=2)
    avibe.failure = ModelError("It failed.")
    ask(client)
    figures = client.get("/api/metrics").json["application"]
    assert (figures["avibe_requests"], figures["failed_requests"]) == (2, 1)
    assert 'avito_ai_requests_total{model="avibe",status="model_error"} 1.0' in client.get("/metrics").text


def test_bodies_of_many_letters_come_back_as_they_were(client, avibe):
    """Nothing is escaped that need not be."""
    avibe.text = 'Ё "quoted" \\ \n 🙂'
    assert json.loads(ask(client).data)["choices"][0]["message"]["content"] == avibe.text
    assert "Ё" in ask(client).text
