"""Log probabilities that answers may have are counted like bodies, until the answers have ended."""

from __future__ import annotations

import pytest

from routes.openai import score_room
from routes.openai.score_room import BYTES_OF_A_PROMPT_SCORE, BYTES_OF_A_SCORE
from routes.services import services

CHAT = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10}
ROUTES = {
    "/v1/chat/completions": (CHAT | {"logprobs": True, "top_logprobs": 4, "n": 3}, 3 * 10 * 5, "logprobs"),
    "/v1/completions": (
        {"model": "avibe", "prompt": "Hello", "max_tokens": 10, "logprobs": 4, "n": 3},
        150,
        "logprobs",
    ),
    "/v1/responses": (
        {"model": "avibe", "input": "Hello", "max_output_tokens": 16, "top_logprobs": 4},
        80,
        "top_logprobs",
    ),
}


@pytest.fixture(params=ROUTES)
def asked(request, monkeypatch):
    """Path and body of a request, how many log probabilities its answers may have, and the field that asks."""
    monkeypatch.setattr(score_room, "FREE", 0)
    return request.param, *ROUTES[request.param]


@pytest.mark.parametrize("stream", [False, True])
def test_as_much_is_taken_as_the_answers_may_need(client, asked, monkeypatch, stream):
    """Of as many tokens as they may have, with all alternatives, once the body was given back."""
    path, body, number, _ = asked
    taken = []
    monkeypatch.setattr(score_room, "grow_body", lambda request, size: taken.append(size) or True)
    monkeypatch.setattr("routes.generation_run.release_body", lambda request: taken.append("body"))
    assert client.post(path, json=body | {"stream": stream}, buffered=True).status_code == 200
    assert taken == ["body", number * BYTES_OF_A_SCORE]


@pytest.mark.parametrize("stream", [False, True])
def test_where_there_is_no_room_the_request_is_refused(client, app, avibe, asked, monkeypatch, stream):
    """With 503 and the time to try again; nothing of it runs on."""
    path, body, _, _ = asked
    avibe.hold = True
    monkeypatch.setattr(score_room, "grow_body", lambda request, size: False)
    response = client.post(path, json=body | {"stream": stream})
    assert (response.status_code, response.json["error"]["code"]) == (503, "overloaded")
    assert "Retry-After" in response.headers
    assert not avibe.stats().num_requests_running
    assert services(app).responses.size() == (0, 0)


def test_what_a_client_may_never_have_is_refused_for_good(client, app, avibe, asked):
    """With 400, which names the field."""
    path, body, number, field = asked
    avibe.hold, budget = True, services(app).body_budget
    budget.total, budget.per_client = 4 * number * BYTES_OF_A_SCORE, number * BYTES_OF_A_SCORE - 1
    response = client.post(path, json=body)
    assert (response.status_code, response.json["error"]["param"]) == (400, field)
    assert not avibe.stats().num_requests_running
    avibe.hold, budget.per_client = False, budget.per_client + 1
    assert client.post(path, json=body).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_usual_ones_are_free(client, monkeypatch, path):
    """Nor is anything taken for an answer without any."""
    monkeypatch.setattr(score_room, "grow_body", lambda request, size: pytest.fail("taken"))
    body = ROUTES[path][0]
    assert client.post(path, json=body).status_code == 200
    without = {name: value for name, value in body.items() if "logprobs" not in name}
    assert client.post(path, json=without | {"stream": True}, buffered=True).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_the_scores_of_prompts_are_counted_before_they_are_computed(client, monkeypatch, stream, n):
    """Of each answer, which keeps them until it has been sent; those of a prompt of seven tokens."""
    taken = []
    monkeypatch.setattr(score_room, "FREE", 0)
    monkeypatch.setattr(score_room, "grow_body", lambda request, size: taken.append(size))
    body = {"model": "avibe", "prompt": "Hello", "max_tokens": 0, "echo": True, "logprobs": 1, "n": n}
    assert client.post("/v1/completions", json=body | {"stream": stream}).status_code == 503
    assert taken == [n * 7 * BYTES_OF_A_PROMPT_SCORE]
    without = {name: value for name, value in body.items() if name != "logprobs"}
    assert client.post("/v1/completions", json=without | {"stream": stream}).status_code == 200
    assert len(taken) == 1
