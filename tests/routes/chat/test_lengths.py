"""max_tokens on /v1 is a bound: what it becomes, what tells of it, and the one length that is refused."""

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import ContextTooLong
from engine.text.prompt_size import too_long
from engine.types import ChatPrompt, TextPrompt
from models import ModelSet
from tests.fakes import ScriptedBackend
from tests.good_requests import TEXT as OWN

CHAT, TEXT, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
BODIES = {
    CHAT: {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]},
    TEXT: {"model": "avibe", "prompt": "Hello"},
}


def post(client, path, **fields):
    return client.post(path, json=BODIES[path] | fields)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("asked", "bound"),
    [({}, 2048), ({"max_tokens": None}, 2048), ({"max_tokens": 1}, 1), ({"max_tokens": 2048}, 2048)]
    + [({"max_tokens": most}, 2048) for most in (2049, 4096, 128_000, 2**63)],
)
def test_a_length_is_a_bound_and_not_a_wish(client, avibe, path, asked, bound):
    """Absent or beyond the limit, it is the limit; the header tells, on a stream as well."""
    for stream in (False, True):
        response = post(client, path, stream=stream, **asked)
        assert response.status_code == 200
        assert response.headers["X-Max-Tokens"] == str(bound)
    for request in avibe.submitted:
        assert (request.sampling.max_tokens, request.sampling.fit_context) == (bound, True)


@pytest.mark.parametrize("asked", [{"max_completion_tokens": 9000}, {"max_completion_tokens": 9, "max_tokens": 9}])
def test_the_newer_name_of_a_chat_means_the_same(client, asked):
    """max_completion_tokens is bounded as max_tokens is."""
    assert post(client, CHAT, **asked).headers["X-Max-Tokens"] == str(min(2048, *asked.values()))


def test_the_limit_gives_way_to_what_the_context_leaves(settings, machine):
    """The scripted prompt has 7 tokens; of several answers the header tells the shortest bound."""
    models = ModelSet({"avibe": ScriptedBackend("avibe", max_model_len=1000)})
    client = create_app(settings, models, machine).test_client()
    assert post(client, CHAT).headers["X-Max-Tokens"] == "993"
    assert post(client, CHAT, max_tokens=994).headers["X-Max-Tokens"] == "993"
    assert post(client, TEXT, prompt=["a", "b"], n=2, max_tokens=5).headers["X-Max-Tokens"] == "5"


def test_a_smaller_limit_of_the_service_holds(environ, models, machine):
    """MAX_TOKENS_LIMIT bounds what is asked for and what is not."""
    environ |= {"MAX_TOKENS_LIMIT": "300"}
    client = create_app(load_settings(environ, None), models, machine).test_client()
    for asked in ({}, {"max_tokens": 301}):
        assert post(client, CHAT, **asked).headers["X-Max-Tokens"] == "300"


def test_our_own_interface_keeps_its_default_and_its_limit(client, avibe):
    """There max_tokens is a wish: it has a default, and what cannot be is refused, never cut in silence."""
    response = client.post(OWN, json={"prompt": "Hello"})
    assert "X-Max-Tokens" not in response.headers
    assert (avibe.only.sampling.max_tokens, avibe.only.sampling.fit_context) == (256, False)
    assert client.post(OWN, json={"prompt": "Hello", "max_tokens": 2049}).status_code == 400


@pytest.mark.parametrize(
    ("path", "field", "error"),
    [
        (CHAT, "messages", too_long(ChatPrompt(()), 4096)),
        (CHAT, "messages", ContextTooLong("It does not fit.", "prompt", 4096, 4096)),
        (TEXT, "prompt", too_long(TextPrompt(""), 4096)),
        (TEXT, "prompt", ContextTooLong("It does not fit.", "max_tokens", 4096, 5000)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_refused_in_the_words_that_clients_look_for(
    client, avibe, path, field, error, stream
):
    """LiteLLM looks for the sentence, LangChain for the code; the field is the one that the prompt came in."""
    avibe.refusal = error
    response = post(client, path, stream=stream)
    assert response.status_code == 400
    failure = response.json["error"]
    assert (failure["param"], failure["code"]) == (field, "context_length_exceeded")
    assert failure["message"].startswith("This model's maximum context length is 4096 tokens. However, ")
    assert error.prompt_tokens is None or f" {error.prompt_tokens} tokens" in failure["message"]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
OF_CHATS = {"type": "function", "function": FUNCTION}
ASKED = {
    CHAT: BODIES[CHAT],
    "/v1/responses": {"model": "avibe", "input": "Hello"},
    MESSAGES: BODIES[CHAT] | {"max_tokens": 8},
}


@pytest.mark.parametrize(
    ("path", "fields", "both", "either"),
    [
        (CHAT, {"tools": [OF_CHATS]}, "messages and tools", "messages or tools"),
        ("/v1/responses", {"tools": [{"type": "function", **FUNCTION}]}, "input and tools", "input or tools"),
        (
            MESSAGES,
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
            "messages and tools",
            "messages or tools",
        ),
        (CHAT, {"tools": [OF_CHATS], "tool_choice": "none"}, "messages", "messages"),
        (CHAT, {"tools": []}, "messages", "messages"),
    ],
)
def test_tools_count_where_they_are_described_in_the_prompt(client, avibe, path, fields, both, either):
    """Who sent two letters and many tools is not told to shorten the letters alone."""
    avibe.refusal = ContextTooLong("It is too long.", "prompt", 4096, 5000)
    said = client.post(path, json=ASKED[path] | fields).json["error"]["message"]
    assert f"However, {both} came to 5000 tokens" in said
    assert said.endswith(f"Please reduce the length of {either}.")


def test_a_text_that_can_only_be_too_long_is_refused_alike(client, avibe):
    """What is refused by its size alone, before it is tokenized, is told so in the same words."""
    for path, fields, field in (
        (CHAT, {"messages": [{"role": "user", "content": "x" * 128 * 4097}]}, "messages"),
        (TEXT, {"prompt": ["x", "x" * 128 * 4097]}, "prompt"),
    ):
        failure = post(client, path, **fields).json["error"]
        assert failure["message"].startswith("This model's maximum context length is 4096 tokens. However, ")
        assert failure["param"] == field
    assert avibe.submitted == []


@pytest.mark.parametrize(
    ("path", "field", "most"),
    [(CHAT, "messages", 1024), ("/v1/responses", "input", 2048), (MESSAGES, "messages", 1024)],
)
def test_more_messages_than_are_read_are_too_long(client, avibe, path, field, most):
    """A program that shortens a conversation beyond the context shortens this one too; any fault in it comes second."""
    said = [*BODIES[CHAT]["messages"] * most, {"role": "nobody"}]
    length = {"max_tokens": 8} if path == MESSAGES else {}
    response = client.post(path, json={"model": "avibe", field: said} | length)
    failure, told = response.json["error"], f"{field} must be a list of at most {most}."
    assert response.status_code == 400
    if path == MESSAGES:
        assert failure["message"] == f"prompt is too long: {told}"
    else:
        assert (failure["message"], failure["param"], failure["code"]) == (told, field, "context_length_exceeded")
    assert avibe.submitted == []
