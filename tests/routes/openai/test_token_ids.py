"""The ids of tokens beside the texts, and the least length of an answer, with vLLM's names, over scripted models."""

import json

import pytest

from engine.types import UNKNOWN_TOKEN, TokenLogprob
from tests.routes.test_openai import CHAT, HELLO, TEXT, TOOL, refused

LOGPROBS = [
    TokenLogprob(5, "Да", -0.5, ((5, "Да", -0.5), (6, "\ufffd", -1.5)), top_data=("Да".encode(), b"\xd0")),
    TokenLogprob(2, "", -0.1, ((2, "", -0.1),)),
]
BODIES = {CHAT: {"messages": HELLO}, TEXT: {"prompt": "x"}}


def post(client, path, **fields):
    return client.post(path, json={"model": "avibe"} | BODIES[path] | fields)


def events(response):
    assert response.status_code == 200
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_chat_has_the_tokens_of_its_prompt_once_and_of_each_answer(client, avibe):
    """Those of the end too; without the wish there is no such field."""
    avibe.token_ids = (5, 6, 2)
    body = post(client, CHAT, return_token_ids=True, n=2).json
    assert body["prompt_token_ids"] == list(range(7))
    assert [choice["token_ids"] for choice in body["choices"]] == [[5, 6, 2]] * 2
    plain = post(client, CHAT).json
    assert "prompt_token_ids" not in plain
    assert "token_ids" not in plain["choices"][0]


def test_a_completion_has_the_tokens_of_each_prompt(client, avibe):
    """Beside those of its continuation."""
    avibe.token_ids = (5, 6, 2)
    for choice in post(client, TEXT, prompt=["a", "b"], return_token_ids=True).json["choices"]:
        assert (choice["token_ids"], choice["prompt_token_ids"]) == ([5, 6, 2], list(range(7)))
    assert "token_ids" not in post(client, TEXT).json["choices"][0]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"stream_options": {"include_usage": True}}], ids=str)
@pytest.mark.parametrize("logprobs", [False, True])
def test_a_stream_has_each_token_once(client, avibe, path, more, logprobs):
    """And the prompt's in the first event."""
    avibe.token_ids = (5, 6, 2)
    wish = {} if not logprobs else {"logprobs": True if path == CHAT else 1}
    told = events(post(client, path, return_token_ids=True, stream=True, **more, **wish))
    choices = [choice for event in told for choice in event["choices"]]
    for index in range(more.get("n", 1)):
        mine = [choice for choice in choices if choice["index"] == index]
        assert [one for choice in mine for one in choice.get("token_ids", [])] == [5, 6, 2]
        if path == TEXT:
            assert [choice.get("prompt_token_ids") for choice in mine] == [list(range(7)), None]
    if path == CHAT:
        shown = [event.get("prompt_token_ids") for event in told if event["choices"]]
        answers = more.get("n", 1)
        assert shown == [list(range(7))] * answers + [None] * (len(shown) - answers)


def test_tokens_of_a_call_are_told_as_it_is_made(client, avibe):
    """Whatever part of it an event shows."""
    avibe.text, avibe.token_ids = '<tool_call>{"name": "look", "arguments": {}}</tool_call>', (5, 6, 7)
    told = events(post(client, CHAT, tools=[TOOL], return_token_ids=True, stream=True))
    assert [one for event in told for one in event["choices"][0].get("token_ids", [])] == [5, 6, 7]


def test_tokens_are_named_by_their_ids(client, avibe):
    """Each has a name of its own then, those without a text too."""
    avibe.logprobs = LOGPROBS
    chat = post(client, CHAT, logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True).json
    shown = chat["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in shown] == ["token_id:5", "token_id:2"]
    assert [one["token"] for one in shown[0]["top_logprobs"]] == ["token_id:5", "token_id:6"]
    text = post(client, TEXT, logprobs=2, return_tokens_as_token_ids=True).json["choices"][0]["logprobs"]
    assert text["tokens"] == ["token_id:5", "token_id:2"]
    assert text["top_logprobs"][0] == {"token_id:5": -0.5, "token_id:6": -1.5}


@pytest.mark.parametrize("path", BODIES)
def test_a_least_length_reaches_the_model(client, avibe, path):
    """As it is; absent, there is none."""
    assert post(client, path, min_tokens=5, max_tokens=5).status_code == 200
    assert post(client, path, min_tokens=5).status_code == 200
    assert post(client, path).status_code == 200
    assert [one.sampling.min_tokens for one in avibe.submitted] == [5, 5, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"min_tokens": 6, "max_tokens": 5},
        {"min_tokens": -1},
        {"min_tokens": 1.5},
        {"min_tokens": True},
        {"min_tokens": 1, "structured_outputs": {"choice": ["a"]}},
        {"return_token_ids": 1},
        {"return_tokens_as_token_ids": "yes"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", BODIES)
def test_what_cannot_be_is_refused_by_name(client, avibe, path, fields):
    """More than the most, and what has a fixed form."""
    assert refused(post(client, path, **fields), 400, "validation_error")[1] == next(iter(fields))
    assert avibe.submitted == []


def test_a_least_length_is_at_most_either_name_of_the_most(client):
    """`max_completion_tokens` bounds it too."""
    response = post(client, CHAT, min_tokens=6, max_completion_tokens=5)
    assert refused(response, 400, "validation_error")[1] == "min_tokens"


def test_a_least_length_leaves_a_free_answer_without_a_grammar(client, avibe):
    """No grammar of calls goes on behind its end."""
    assert post(client, CHAT, tools=[TOOL], min_tokens=5).status_code == 200
    assert avibe.only.sampling.token_mask is None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("more", [{}, {"return_token_ids": True}, {"n": 2}], ids=str)
@pytest.mark.parametrize("stop", ["END", None])
def test_a_choice_names_the_stop_string_that_ended_it(client, avibe, path, more, stop):
    """Whole and streamed, as vLLM does; what has ended by itself has no such field."""
    avibe.ended_by = stop
    told = [] if stop is None else [stop] * more.get("n", 1)
    whole = post(client, path, stop=["END", "x"], **more).json["choices"]
    assert [choice["stop_reason"] for choice in whole if "stop_reason" in choice] == told
    sent = [choice for event in events(post(client, path, stream=True, **more)) for choice in event["choices"]]
    last = [choice for choice in sent if choice["finish_reason"] == "stop"]
    assert [choice["stop_reason"] for choice in sent if "stop_reason" in choice] == told
    assert [choice["stop_reason"] for choice in last if "stop_reason" in choice] == told


def test_a_continuation_shows_all_alternatives_of_a_server_elsewhere(client, avibe):
    """Whose tokens have no ids that are known; the chosen one has its own value."""
    top = ((UNKNOWN_TOKEN, "b", -1.0), (UNKNOWN_TOKEN, "c", -2.0), (UNKNOWN_TOKEN, "a", -3.0))
    avibe.logprobs = (TokenLogprob(UNKNOWN_TOKEN, "a", -3.0, top),)
    (choice,) = post(client, TEXT, logprobs=3).json["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"b": -1.0, "c": -2.0, "a": -3.0}]
