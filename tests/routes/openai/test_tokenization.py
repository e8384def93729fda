"""POST /v1/tokenize and /v1/detokenize over scripted models, and prompts that the last message is part of."""

import pytest

from engine.errors import ContextTooLong, NotReady, Overloaded, ValidationError
from tests.routes.test_openai import CHAT, HELLO, TEXT, TOOL, ask, image_part, refused, said

TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"
BEGUN = [*HELLO, {"role": "assistant", "content": "Well"}]


def tokenize(client, **fields):
    return client.post(TOKENIZE, json={"model": "avibe"} | fields)


def test_the_tokens_of_a_text(client, avibe):
    """With vLLM's names; nothing is submitted."""
    response = tokenize(client, prompt="Hello", add_special_tokens=False)
    assert response.json == {"count": 7, "max_model_len": 4096, "tokens": list(range(7)), "token_strs": None}
    (request,) = avibe.tokenized
    assert request.prompt.text == "Hello"
    assert (avibe.submitted, avibe.detokenized) == ([], [])


def test_the_texts_of_the_tokens_are_shown_if_they_are_asked_for(client):
    """One for each."""
    assert tokenize(client, prompt="Hello", return_token_strs=True).json["token_strs"] == [f"t{n} " for n in range(7)]


def test_an_empty_text_has_no_tokens(client, avibe):
    """And no tokens have an empty text."""
    assert tokenize(client, prompt="").json["tokens"] == []
    assert client.post(DETOKENIZE, json={"model": "avibe", "tokens": []}).json == {"prompt": ""}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL]},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"messages": BEGUN, "continue_final_message": True},
        {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "continue_final_message": False},
        {"model": "avision", "messages": said(image_part())},
    ],
)
def test_the_tokens_of_a_conversation_are_those_of_its_answers_prompt(client, models, fields):
    """With its tools, images, reasoning and beginning."""
    body = {"model": "avibe", "messages": HELLO} | fields
    backend = models.get(body["model"])
    assert client.post(TOKENIZE, json=body).json["count"] == 7
    assert client.post(CHAT, json=body).status_code == 200
    assert backend.tokenized[0].prompt == backend.only.prompt
    assert backend.only.prompt.continues == (fields.get("continue_final_message") is True)
    assert backend.only.prompt.opens_answer == (fields.get("add_generation_prompt") is not False)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "prompt", "prompt or messages is required."),
        ({"prompt": "a", "messages": HELLO}, "prompt", "cannot be combined"),
        ({"prompt": 5}, "prompt", "must be a text"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "x"}]}, "messages[0]", "role"),
        ({"prompt": "a", "something": 1}, "something", "Unknown field"),
        ({"prompt": "a", "return_token_strs": 1}, "return_token_strs", "true or false"),
        ({"messages": HELLO, "tools": [{"type": "x"}]}, "tools[0]", "type"),
    ],
)
def test_a_request_is_refused_by_name(client, avibe, fields, param, says):
    """Before anything is tokenized."""
    message, named = refused(tokenize(client, **fields), 400, "validation_error")
    assert named.startswith(param)
    assert says in message
    assert avibe.tokenized == []


@pytest.mark.parametrize("tokens", [[-1], [2**31], ["a"], "a", [True], None, [1, [2]]])
def test_what_is_no_list_of_tokens_is_refused(client, avibe, tokens):
    """With the place."""
    response = client.post(DETOKENIZE, json={"model": "avibe", "tokens": tokens})
    assert refused(response, 400, "validation_error")[1].startswith("tokens")
    assert avibe.detokenized == []


def test_the_text_of_tokens(client, avibe):
    """The client is told of, so that one cannot take all of the room."""
    assert client.post(DETOKENIZE, json={"model": "avibe", "tokens": [3, 4]}).json == {"prompt": "t3 t4 "}
    (request,) = avibe.detokenized
    assert request.token_ids == (3, 4)
    assert request.client


@pytest.mark.parametrize(
    ("refusal", "status", "code", "param"),
    [
        (NotReady("Loading.", 5), 503, "not_ready", None),
        (Overloaded("Too many.", 1), 503, "overloaded", None),
        (ContextTooLong("Too long.", "prompt", 4096), 400, "context_length_exceeded", "prompt"),
        (ValidationError("Token ids must be from 0 to 5.", "tokens"), 400, "validation_error", "tokens"),
    ],
)
def test_what_the_model_refuses_is_told(client, avibe, refusal, status, code, param):
    """In OpenAI's shape."""
    avibe.refusal = refusal
    bodies = {TOKENIZE: {"prompt": "x"}, DETOKENIZE: {"tokens": [1]}}
    for path, body in bodies.items():
        error = client.post(path, json={"model": "avibe"} | body).json["error"]
        assert (error["code"], error["param"]) == (code, param)
    assert client.post(DETOKENIZE, json={"model": "avibe", "tokens": [1]}).status_code == status


def test_an_unknown_model_is_not_found(client):
    """On both."""
    for path, body in ((TOKENIZE, {"prompt": "x"}), (DETOKENIZE, {"tokens": [1]})):
        refused(client.post(path, json={"model": "x"} | body), 404, "model_not_found")


def test_a_message_cannot_be_continued_and_answered(client, avibe):
    """vLLM's rule; that it opens no answer of its own need not be said."""
    both = {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True}
    for response in (ask(client, **both), tokenize(client, **both)):
        assert refused(response, 400, "validation_error")[1] == "continue_final_message"
    assert avibe.submitted == avibe.tokenized == []


def test_an_answer_that_has_begun_does_not_begin_with_reasoning(client, avibe):
    """The template's switch is refused, an effort passed over."""
    fields = {"messages": BEGUN, "continue_final_message": True}
    switched = ask(client, **fields, chat_template_kwargs={"enable_thinking": True})
    assert refused(switched, 400, "validation_error")[1] == "chat_template_kwargs.enable_thinking"
    assert ask(client, **fields, reasoning_effort="high").status_code == 200
    assert not avibe.only.prompt.thinking


def test_a_text_is_continued_in_any_case(client, avibe):
    """Of a completion nothing is asked by neutral values, and the others have no meaning."""
    text = {"model": "avibe", "prompt": "x"}
    refused(client.post(TEXT, json=text | {"add_generation_prompt": False}), 400, "validation_error")
    refused(client.post(TEXT, json=text | {"continue_final_message": True}), 400, "validation_error")
    assert avibe.submitted == []


class TestTheBudget:
    """That of counting."""

    @pytest.fixture
    def environ(self):
        return {"RATE_LIMIT_PER_MINUTE": "2", "RATE_LIMIT_PER_HOUR": "0"}

    def test_costs_no_answers(self, client):
        """Twenty of both together, ten times as many as answers."""
        codes = [tokenize(client, prompt="x").status_code for _ in range(19)]
        codes += [client.post(DETOKENIZE, json={"model": "avibe", "tokens": [1]}).status_code for _ in range(2)]
        assert codes == [200] * 20 + [429]
        assert ask(client).status_code == 200
