"""Completions that show their prompts, as programs that evaluate models ask for, over scripted models."""

import json
from dataclasses import dataclass, field

import pytest

from engine.types import TokenLogprob
from routes.openai.completions import SHOWN_FREE
from routes.openai.score_room import BYTES_OF_A_PROMPT_SCORE
from routes.services import services
from tests.routes.test_openai import CHAT, HELLO, TEXT, refused

PROMPT = [
    TokenLogprob(1, "<|im_start|>", 0.0, data=b"<|im_start|>"),
    TokenLogprob(5, "Да", -0.5, ((5, "Да", -0.5), (6, "Не", -1.5)), offset=12),
    TokenLogprob(7, "\ufffd", -3.0, ((6, "Не", -0.1),), b"\xd0", ("Не".encode(),), 14),
]
END = TokenLogprob(2, "", -0.25, ((2, "", -0.25),))


@dataclass
class Shown:
    text: str = "<|im_start|>Да\ufffd"
    logprobs: list = field(default_factory=lambda: PROMPT)


@pytest.fixture
def echoing(avibe):
    """A model that shows a prompt and answers with its end."""
    avibe.echo, avibe.logprobs, avibe.text = Shown(), [END], ""
    return avibe


def complete(client, **fields):
    return client.post(TEXT, json={"model": "avibe", "prompt": "x", "echo": True} | fields)


def test_the_prompt_stands_before_the_answer(client, avibe):
    """Without log probabilities the texts alone."""
    avibe.echo = Shown()
    (choice,) = complete(client).json["choices"]
    assert (choice["text"], choice["logprobs"]) == ("<|im_start|>Да\ufffdAn answer.", None)
    assert avibe.only.sampling.echo
    assert avibe.only.sampling.logprobs is None


def test_every_token_of_prompt_and_answer_has_its_entry(client, echoing):
    """The end and parts of characters too, so that a program can cut by numbers of tokens; the first has no value."""
    shown = complete(client, logprobs=1, max_tokens=1, temperature=0).json["choices"][0]["logprobs"]
    assert shown == {
        "tokens": ["<|im_start|>", "Да", "bytes:\\xd0", ""],
        "token_logprobs": [None, -0.5, -3.0, -0.25],
        "top_logprobs": [None, {"Да": -0.5, "Не": -1.5}, {"Не": -0.1, "bytes:\\xd0": -3.0}, {"": -0.25}],
        "text_offset": [0, 12, 14, 15],
    }


def test_tokens_may_be_named_by_their_ids(client, echoing):
    """Those of the prompt too."""
    shown = complete(client, logprobs=1, return_tokens_as_token_ids=True).json["choices"][0]["logprobs"]
    assert shown["tokens"] == ["token_id:1", "token_id:5", "token_id:7", "token_id:2"]


@pytest.mark.parametrize(("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1, 2], [3]], 2)])
def test_each_prompt_is_shown(client, echoing, prompt, count):
    """Texts and token ids, one and several."""
    choices = complete(client, prompt=prompt, logprobs=0, max_tokens=0).json["choices"]
    assert len(choices) == len(echoing.submitted) == count
    assert {choice["text"] for choice in choices} == {Shown().text}
    assert {one.sampling.max_tokens for one in echoing.submitted} == {0}


@pytest.mark.parametrize("room", [True, False])
def test_what_is_shown_of_prompts_counts_as_a_body_of_its_size(client, avibe, monkeypatch, room):
    """Ids of long tokens in few bytes would else make hundreds of megabytes; where there is no room, it is a 503."""
    monkeypatch.setattr("routes.openai.completions.SHOWN_FREE", 0)
    avibe.echo, sizes = Shown("a" * 5000), list[int]()
    monkeypatch.setattr("routes.openai.completions.grow_body", lambda request, size: (sizes.append(size), room)[1])
    answer = complete(client, prompt=[[1, 2], [3]], n=2, return_token_ids=True)
    assert sizes == ([20_000, 16 * 7] * 4 if room else [20_000])
    assert answer.status_code == (200 if room else 503)
    assert room or int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("shown", "counted"), [(SHOWN_FREE // 4, 0), (SHOWN_FREE // 4 + 5, 20)])
def test_prompts_of_an_ordinary_size_need_no_room(client, avibe, monkeypatch, shown, counted):
    """The answer is there already when they are counted: it would be lost to a moment's crowd."""
    avibe.echo, sizes = Shown("a" * shown), list[int]()
    monkeypatch.setattr("routes.openai.completions.grow_body", lambda request, size: sizes.append(size) or True)
    assert complete(client).status_code == 200
    assert sum(sizes) == counted


@pytest.mark.parametrize("room", [True, False])
def test_scores_of_prompts_count_as_what_they_take(client, echoing, monkeypatch, room):
    """A kilobyte and more for each token of each answer, of which a few bytes were sent."""
    sizes = []
    monkeypatch.setattr("routes.openai.completions.SHOWN_FREE", 0)
    monkeypatch.setattr(
        "routes.openai.completions.grow_body", lambda request, size: (sizes.append(size), room or size < 1248)[1]
    )
    answer = complete(client, logprobs=1, max_tokens=1, temperature=0, n=2)
    assert sizes == [4 * len(Shown().text), (2048 - BYTES_OF_A_PROMPT_SCORE) * 4] * (2 if room else 1)
    assert answer.status_code == (200 if room else 503)


@pytest.mark.parametrize(
    ("fields", "param"), [({"logprobs": 1}, "echo"), ({"echo": False, "return_token_ids": True}, "return_token_ids")]
)
def test_what_one_client_may_never_hold_is_refused(app, client, echoing, monkeypatch, fields, param):
    """With 400, before it is computed: coming again does not help. A stream shows a prompt at a time."""
    monkeypatch.setattr("routes.openai.completions.SHOWN_FREE", 0)
    size = 2 * 7 * (2048 if "logprobs" in fields else 16)  # two answers to seven tokens
    if "logprobs" not in fields:
        echoing.echo = None
    budget = services(app).body_budget
    budget.total, budget.per_client = 2 * size, size
    assert complete(client, n=2, max_tokens=1, temperature=0, **fields).status_code == 200
    budget.per_client, echoing.hold = size - 1, True
    response = complete(client, n=2, max_tokens=1, temperature=0, **fields)
    assert refused(response, 400, "validation_error")[1] == param
    assert not echoing.stats().num_requests_running
    echoing.hold = False
    assert complete(client, n=2, max_tokens=1, temperature=0, stream=True, **fields).status_code == 200


def test_a_shown_text_that_one_client_may_never_hold_is_refused(app, client, avibe):
    """With 400 too, though its length is known at the end only: it would be a 503 each time."""
    avibe.echo, budget = Shown("a" * SHOWN_FREE), services(app).body_budget
    budget.total, budget.per_client = 16 * SHOWN_FREE, 3 * SHOWN_FREE
    assert complete(client).status_code == 200
    budget.per_client -= 1
    assert refused(complete(client), 400, "validation_error")[1] == "echo"


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_stream_begins_with_the_prompt(client, echoing, logprobs):
    """Once; its pieces are the body."""
    echoing.text = "An answer."
    whole = complete(client, logprobs=logprobs).json["choices"][0]
    response = complete(client, logprobs=logprobs, stream=True)
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: {")]
    first, last = (json.loads(line)["choices"][0] for line in lines)
    assert (first["text"], first["logprobs"]) == (whole["text"], whole["logprobs"])
    assert (last["text"], last["finish_reason"]) == ("", "stop")


def test_no_tokens_are_made_for_the_prompt_alone(client, avibe):
    """0 is a length with it only."""
    avibe.echo = Shown()
    assert complete(client, max_tokens=0).status_code == 200
    for fields in ({"echo": False}, {"echo": None}):
        assert refused(complete(client, max_tokens=0, **fields), 400, "validation_error")[1] == "max_tokens"
    assert refused(complete(client, max_tokens=-2), 400, "validation_error")[1] == "max_tokens"
    assert refused(complete(client, max_tokens=0, min_tokens=1), 400, "validation_error")[1] == "min_tokens"
    assert complete(client, max_tokens=-1).status_code == 200


@pytest.mark.parametrize("fields", [{"echo": 1}, {"echo": "yes"}, {"prompt_logprobs": 1}], ids=str)
def test_what_is_not_understood_is_refused_by_name(client, avibe, fields):
    """vLLM's own field for it as well."""
    assert refused(complete(client, **fields), 400, "validation_error")[1] == next(iter(fields))
    assert avibe.submitted == []


def test_a_chat_shows_no_prompt(client, avibe):
    """Its template's text is of no use to a client."""
    response = client.post(CHAT, json={"model": "avibe", "messages": HELLO, "echo": True})
    assert refused(response, 400, "validation_error")[1] == "echo"
    assert avibe.submitted == []
