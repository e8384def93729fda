"""Ratings of answers: by request id, once, by whom the answer was for, counted by model."""

import tracemalloc

import pytest

from routes.rated_answers import RatedAnswers
from tests.good_requests import FEEDBACK, TEXT


def answer(client, **extra):
    """Return the request id of an answer."""
    return client.post(TEXT, json={"prompt": "x"}, **extra).json["request_id"]


def rate(client, request_id, rating="up", **extra):
    return client.post(FEEDBACK, json={"request_id": request_id, "rating": rating}, **extra)


def test_an_answer_is_rated_once_and_counted_by_model(client):
    """The first rating counts; a second one is taken and counts nothing. The operator sees both kinds."""
    first, second = answer(client), answer(client)
    assert rate(client, first).json == {"success": True, "counted": True}
    assert rate(client, first, "down").json == {"success": True, "counted": False}
    assert rate(client, second, "down").json["counted"]
    text = client.get("/metrics").text
    assert 'avito_ai_feedback_total{model="avibe",rating="up"} 1.0' in text
    assert 'avito_ai_feedback_total{model="avibe",rating="down"} 1.0' in text
    assert 'avito_ai_feedback_total{model="avision",rating="up"} 0.0' in text
    assert '<td class="figure">1 / 1</td>' in client.get("/status").text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/avibe"])
def test_answers_of_every_interface_can_be_rated(client, path):
    """By the request id in their header."""
    bodies = {
        "/v1/chat/completions": {"json": {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}},
        "/v1/completions": {"json": {"model": "avibe", "prompt": "x"}},
        "/avibe": {"data": {"prompt": "x"}},
    }
    assert rate(client, client.post(path, **bodies[path]).headers["X-Request-ID"]).status_code == 200


def test_nobody_rates_what_another_was_answered(client):
    """An id of somebody else is as unknown as one that is made up, or whose request failed."""
    theirs = answer(client, environ_base={"REMOTE_ADDR": "203.0.113.7"})
    failed = client.post(TEXT, json={}).json["request_id"]
    answers = [rate(client, one) for one in (theirs, "made-up", failed)]
    assert {one.status_code for one in answers} == {404}
    assert len({one.json["message"] for one in answers}) == 1
    assert 'rating="up"} 1.0' not in client.get("/metrics").text


@pytest.mark.parametrize(
    "body",
    [{}, {"rating": "up"}, {"request_id": "x", "rating": "best"}, {"request_id": "x", "rating": True}]
    + [{"request_id": one, "rating": "up"} for one in ("", "x" * 129, 1)]
    + [{"request_id": "x", "rating": "up", "text": "Why"}],
)
def test_a_wrong_rating_is_refused(client, body):
    """No text is taken."""
    assert client.post(FEEDBACK, json=body).status_code == 400


def test_only_so_many_answers_are_remembered():
    """The oldest is forgotten first; an id that comes again is its latest answer."""
    answers = RatedAnswers(capacity=2)
    for one in ("1", "2", "1", "3"):
        answers.add("a", one, "avibe")
    assert answers.rate("a", "2") is None
    assert answers.rate("a", "1") == ("avibe", True)
    answers.add("a", "1", "avision")
    assert answers.rate("a", "1") == ("avision", True)


def test_an_answer_that_can_be_rated_takes_little_memory():
    """The last 10,000 are known, of whichever clients: a few hundred bytes of each, whatever the lengths of its ids."""
    answers = RatedAnswers()
    answers.add("10.0.0.1", "first", "avibe")
    tracemalloc.start()
    try:
        for number in range(1000):
            answers.add(f"jwt:{number}" + "x" * 100, f"{number}" + "y" * 100, "avibe")
        assert tracemalloc.get_traced_memory()[0] < 1000 * 300
    finally:
        tracemalloc.stop()


def test_accounts_with_spaces_meet_in_no_answer():
    """An account may have any name, and a request id is none of its end."""
    answers = RatedAnswers()
    answers.add("jwt:a b", "c", "avibe")
    assert answers.rate("jwt:a", "b c") is None
    assert answers.rate("jwt:a b", "c") == ("avibe", True)
