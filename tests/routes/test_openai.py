"""/v1 over scripted models: models, whole answers and conversations. tests/e2e runs the real client."""

import base64
import json

import pytest

from app_production import create_app
from engine.errors import ModelError
from engine.types import Status, TokenLogprob
from models import ModelSet
from routes.chat.sampling import LIKELIEST
from tests.fakes import ScriptedBackend, image_bytes

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
URL = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"


def ask(client, **fields):
    """Send a chat and return the response."""
    return client.post(CHAT, json={"model": "avibe", "messages": HELLO} | fields)


def refused(response, status, code, kind="invalid_request_error"):
    """Check a failure's status and exact fields; return its message and `param`."""
    assert response.status_code == status
    assert set(response.json) == {"error"}
    error = response.json["error"]
    more = {"retry_after", "details"} if status == 429 else set()
    assert set(error) == {"message", "type", "param", "code", "request_id"} | more
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert (error["type"], error["code"]) == (kind, code)
    return error["message"], error["param"]


def image_part(url=URL, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def said(*parts):
    return [{"role": "user", "content": list(parts)}]


def test_models_are_listed_by_their_names_and_their_checkpoints(settings, machine):
    """A demo is found by either; the list needs no loaded model."""
    models = ModelSet({"avibe": ScriptedBackend("avibe", demo=True), "avision": ScriptedBackend("avision")})
    models.get("avibe").become(Status.LOADING)
    client = create_app(settings, models, machine).test_client()
    listed = client.get("/v1/models").json
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["avibe", "avibe-demo", "avision"]
    assert client.get("/v1/models/avibe-demo").json == listed["data"][1]
    assert {entry["root"] for entry in listed["data"][:2]} == {"avibe-demo"}


def test_a_context_that_is_not_known_yet_is_not_listed(settings, machine):
    """Until a checkpoint is loaded its context may turn out to be shorter than the setting."""
    models = ModelSet({"avibe": ScriptedBackend("avibe", loaded=False), "avision": ScriptedBackend("avision")})
    client = create_app(settings, models, machine).test_client()
    avibe, avision = client.get("/v1/models").json["data"]
    assert "max_model_len" not in avibe
    assert "max_model_len" not in client.get("/v1/models/avibe").json
    assert avision["max_model_len"] == 4096


@pytest.mark.parametrize("name", ["gpt-4o", "AVIBE", "avibe/x", "models/avibe"])
def test_an_unknown_model_is_not_found(client, name):
    """404 in OpenAI's format, for the list of models and for a request alike."""
    assert refused(client.get(f"/v1/models/{name}"), 404, "model_not_found")[1] == "model"
    assert refused(ask(client, model=name), 404, "model_not_found")[1] == "model"


def test_a_chat_has_exactly_the_promised_fields(client):
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
    """n answers are n requests of the engine with different seeds; their tokens are added."""
    body = ask(client, n=3, seed=5).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["completion_tokens"] == 15
    assert [request.sampling.seed for request in avibe.submitted] == [5, 6, 7]
    assert len({request.request_id for request in avibe.submitted}) == 3


def test_several_prompts_are_continued(client, avibe):
    """Texts or tokens; every prompt is counted once, every choice by itself."""
    body = client.post(TEXT, json={"model": "avibe", "prompt": ["a", "b"], "n": 2}).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 14
    assert [request.prompt.text for request in avibe.submitted] == ["a", "a", "b", "b"]
    client.post(TEXT, json={"model": "avibe", "prompt": [1, 2]})
    client.post(TEXT, json={"model": "avibe", "prompt": [[3], [4]]})
    assert [request.prompt.token_ids for request in avibe.submitted[4:]] == [(1, 2), (3,), (4,)]


def test_absent_fields_take_the_checkpoints_values_except_temperature(settings, machine):
    """null counts as absent."""
    own = {"top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05, "temperature": 0.1}
    backend = ScriptedBackend("avibe", generation_defaults=own)
    client = create_app(settings, ModelSet({"avibe": backend}), machine).test_client()
    ask(client, temperature=None, top_p=None, max_tokens=None, stop=None, seed=None)
    sampling = backend.only.sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0.8, 20, 0.1, 1.05)
    assert (sampling.temperature, sampling.max_tokens, sampling.stop, sampling.seed) == (0.7, 2048, (), None)


def test_sampling_fields_reach_the_engine(client, avibe):
    """Every field, as the engine's parameter."""
    fields = {
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
    assert ask(client, **fields).status_code == 200
    sampling = avibe.only.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (9, 0.0, 0.5, 0)
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 1.0, -1.0)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.5, {3: -100.0, 4: 2.5})
    assert (sampling.seed, sampling.stop, sampling.logprobs, sampling.ignore_eos) == (-4, ("a", "b"), 2, True)
    assert ask(client, stop="end").status_code == 200
    assert avibe.submitted[-1].sampling.stop == ("end",)


def test_log_probabilities_are_shown_in_both_shapes(client, avibe):
    """Tokens without text are left out; a part of a character has its bytes; minus infinity becomes -9999."""
    avibe.logprobs = [
        TokenLogprob(1, "Да", -0.5, ((1, "Да", -0.5), (2, "\ufffd", float("-inf"))), top_data=("Да".encode(), b"\xd0")),
        TokenLogprob(3, "", -0.1),
    ]
    (token,) = ask(client, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("Да", -0.5, [208, 148, 208, 176])
    assert token["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9999.0, "bytes": [208]}
    told = client.post(TEXT, json={"model": "avibe", "prompt": "x", "logprobs": 2}).json["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["Да"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"Да": -0.5, "bytes:\\xd0": -9999.0}],
        "text_offset": [0],
    }


def test_the_sampled_token_is_among_the_likeliest_of_a_completion(client, avibe):
    """Also where it is not one of them. Parts of characters are told apart by their bytes; offsets are the engine's."""
    first, second, third = b"\xf0\x9f", b"\x98\x80", "é".encode()
    avibe.logprobs = [
        TokenLogprob(1, "\ufffd", -3.0, ((2, "\ufffd", -0.5), (5, "a", -1.0)), first, (second, b"a"), 4),
        TokenLogprob(2, "\ufffd\ufffd", -0.1, ((2, "\ufffd\ufffd", -0.1),), second, (second,), 4),
        TokenLogprob(3, "é", -0.2, (), third, (), 5),
    ]
    asked = {"model": "avibe", "prompt": "x", "logprobs": 2}
    told = client.post(TEXT, json=asked).json["choices"][0]["logprobs"]
    assert told["tokens"] == ["bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "é"]
    assert told["top_logprobs"] == [
        {"bytes:\\x98\\x80": -0.5, "a": -1.0, "bytes:\\xf0\\x9f": -3.0},
        {"bytes:\\x98\\x80": -0.1},
        {"é": -0.2},
    ]
    assert told["text_offset"] == [4, 4, 5]
    content = ask(client, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in content] == [list(first), list(second), list(third)]
    assert content[0]["top_logprobs"][0]["bytes"] == list(second)


def test_every_role_reaches_the_template(client, avibe):
    """`developer` becomes `system`; calls and their results keep what the template needs."""
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


def test_results_are_put_in_the_order_of_their_calls(client, avibe):
    """A program sends them as the calls end; templates show no ids."""
    calls = [{"id": call, "type": "function", "function": {"name": "look", "arguments": "{}"}} for call in "ab"]
    results = [{"role": "tool", "content": f"of {call}", "tool_call_id": call} for call in "ba"]
    assert ask(client, messages=[*HELLO, {"role": "assistant", "tool_calls": calls}, *results]).status_code == 200
    assert [message["content"] for message in avibe.only.prompt.messages[2:]] == ["of a", "of b"]


def test_images_of_all_messages_are_read_in_order(client, avision):
    """Each keeps the position of its part."""
    first, second = image_bytes("red", (10, 20)), image_bytes("blue", (30, 40))
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (first, second)]
    turns = [*said(image_part(urls[0]), {"type": "text", "text": "?"}), *said(image_part(urls[1], detail="high"))]
    assert ask(client, model="avision", messages=turns).status_code == 200
    prompt = avision.only.prompt
    assert [(image.width, image.height) for image in prompt.images] == [(10, 20), (30, 40)]
    assert prompt.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "?"}]


@pytest.mark.parametrize(
    ("fields", "thinking"),
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
def test_reasoning_is_off_by_default(client, avibe, fields, thinking):
    """The template's switch turns it on and takes precedence over the effort."""
    assert ask(client, **fields).status_code == 200
    assert avibe.only.prompt.thinking is thinking


def test_reasoning_is_a_field_of_its_own(client, avibe):
    """Only if reasoning is switched on; otherwise the text is not parsed."""
    avibe.text = "<think>\nHm.\n</think>\n\nYes."
    message = ask(client, reasoning_effort="high").json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    assert ask(client).json["choices"][0]["message"]["content"] == avibe.text


def test_calls_become_tool_calls(client, avibe):
    """Every call of the answer, and the finish reason; an answer at its limit ends with `length`."""
    avibe.text = 'Wait.\n<tool_call>\n{"name": "look", "arguments": {"at": "я"}}\n</tool_call>'
    (choice,) = ask(client, tools=[TOOL]).json["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Wait.")
    assert (call["type"], call["function"]) == ("function", {"name": "look", "arguments": '{"at": "я"}'})
    assert avibe.submitted[0].prompt.tools == (TOOL,)
    avibe.finish_reason = "length"
    assert ask(client, tools=[TOOL]).json["choices"][0]["finish_reason"] == "length"
    (choice,) = ask(client, tools=[TOOL], tool_choice="none").json["choices"]
    assert choice["message"]["content"] == 'Wait.\n{"name": "look", "arguments": {"at": "я"}}'
    assert avibe.submitted[-1].prompt.tools == ()


def test_failures_and_answers_are_counted_for_their_model(client, avibe):
    """The figures have the model that the body of a request of /v1 names."""
    ask(client, n=2)
    avibe.failure = ModelError("It failed.")
    ask(client)
    figures = client.get("/api/metrics").json["application"]
    assert (figures["avibe_requests"], figures["failed_requests"]) == (2, 1)
    counted = 'avito_ai_requests_total{model="avibe",protocol="openai_chat",status="model_error"} 1.0'
    assert counted in client.get("/metrics").text


def test_text_of_every_script_is_sent_unescaped(client, avibe):
    """Only what JSON requires is escaped."""
    avibe.text = 'Ё "quoted" \\ \n 🙂'
    assert json.loads(ask(client).data)["choices"][0]["message"]["content"] == avibe.text
    assert "Ё" in ask(client).text


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/responses", "/v1/messages"])
def test_a_top_p_of_nothing_is_the_likeliest_token(client, avibe, path):
    """As with the services that take 0; what stands for it keeps that token alone."""
    rest = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "x"}, "/v1/responses": {"input": "x"}}
    fields = rest.get(path, {"messages": HELLO, "max_tokens": 5})
    assert client.post(path, json={"model": "avibe", "top_p": 0, **fields}).status_code == 200
    assert avibe.only.sampling.top_p == LIKELIEST


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/responses"])
def test_a_seed_of_minus_one_and_an_empty_stop_are_none(client, avibe, path):
    """Programs that cannot leave them out send them so."""
    rest = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "x"}, "/v1/responses": {"input": "x"}}
    assert client.post(path, json={"model": "avibe", "seed": -1, "stop": "", **rest[path]}).status_code == 200
    assert (avibe.only.sampling.seed, avibe.only.sampling.stop) == (None, ())


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/responses"])
def test_as_many_stops_are_taken_as_editors_send(client, avibe, path):
    """Continue's autocompletion has more than the four that OpenAI itself takes."""
    stops = ["\n\n", "\r\n\r\n", "/src/", "#- coding: utf-8", "```", *map(str, range(11))]
    rest = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "x"}, "/v1/responses": {"input": "x"}}
    assert client.post(path, json={"model": "avibe", "stop": stops, **rest[path]}).status_code == 200
    assert avibe.only.sampling.stop == tuple(stops)


def test_a_batch_of_completions_as_langchain_sends_it(client, avibe):
    """Twenty texts at once."""
    response = client.post(TEXT, json={"model": "avibe", "prompt": ["x"] * 20})
    assert [choice["index"] for choice in response.json["choices"]] == [*range(20)]
