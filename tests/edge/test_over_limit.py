"""What every 429 of a rate limit tells programs: when to try again, and which setting or limit it was."""

import pytest

from edge.errors import RateLimitExceeded, headers_of
from edge.rate_limit import OverBudget, RateLimiter
from edge.services import services
from engine.errors import NotReady, Overloaded
from keys.account import Limits
from tests.edge.test_gate import BODIES, judged, parsed

ALL = BODIES | {
    "/v1/responses": {"model": "avibe", "input": "Hello"},
    "/v1/tokenize": {"model": "avibe", "prompt": "Hello"},
    "/v1/messages/count_tokens": {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]},
}


def told(body):
    """Return the part of a body that has the seconds and the name."""
    return body["error"] if isinstance(body["error"], dict) else body


@pytest.fixture
def environ(environ):
    """One request a minute, and ten that count tokens."""
    return environ | {"RATE_LIMIT_PER_MINUTE": "1", "RATE_LIMIT_PER_HOUR": "0"}


@pytest.mark.parametrize("path", ALL)
def test_the_body_has_the_seconds_and_the_setting(client, path):
    """In the shape of each protocol; the message keeps its fixed words."""
    answers = [client.post(path, json=ALL[path]) for _ in range(11)]
    refused = answers[-1]
    assert refused.status_code == 429
    part = told(refused.json)
    assert part["retry_after"] == int(refused.headers["Retry-After"])
    assert part["details"] == {"setting": "RATE_LIMIT_PER_MINUTE"}
    assert part["message"].startswith("Rate limit exceeded: ")
    assert part["message"].endswith(" requests per minute")


@pytest.mark.parametrize("error", [RateLimitExceeded, Overloaded, NotReady])
@pytest.mark.parametrize(("seconds", "raises"), [(1, False), (60, False), (61, True), (3600, True)])
def test_a_client_that_repeats_by_itself_is_not_asked_to_sleep_for_long(error, seconds, raises):
    """Up to a minute OpenAI's and Anthropic's clients wait by themselves; beyond that they are told to raise."""
    refusal = error("Later.", seconds)
    headers = headers_of(refusal, refusal)
    assert headers.pop("X-Should-Retry", None) == ("false" if raises else None)
    assert headers == {"Retry-After": str(seconds)}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/text/batch", {"prompts": ["Hello"] * 11}),
        ("/v1/chat/completions", {**ALL["/v1/chat/completions"], "n": 11}),
        ("/v1/completions", {"model": "avibe", "prompt": ["Hello"] * 2, "n": 6}),
    ],
)
def test_more_answers_than_the_limit_are_charged_as_one(app, client, monkeypatch, path, body):
    """Each such request was read and checked; whoever repeats it is refused as others are."""
    monkeypatch.setattr(services(app).rate_limiter, "_per_minute", 10)
    statuses = [client.post(path, json=body).status_code for _ in range(11)]
    assert statuses == [400] * 10 + [429]


def test_health_tells_it_too(client):
    """Its budget is of its own, with the same setting."""
    refused = [client.get("/api/health") for _ in range(2)][-1]
    assert (refused.status_code, refused.json["details"]) == (429, {"setting": "RATE_LIMIT_PER_MINUTE"})
    assert refused.json["retry_after"] == int(refused.headers["Retry-After"])


@pytest.mark.parametrize("path", BODIES)
def test_the_gate_tells_it_too(app, client, path):
    """A refusal before the application is reached has the same body."""
    client.post(path, json=BODIES[path])
    status, headers, body = parsed(judged(services(app).gate, path))
    assert status == 429
    assert told(body)["retry_after"] == int(headers["retry-after"])
    assert told(body)["details"] == {"setting": "RATE_LIMIT_PER_MINUTE"}


def test_other_failures_name_no_limit(client):
    """The fields are those of a 429 alone."""
    body = client.post("/api/v1/text/generate", json={"prompt": ""}).json
    assert {"retry_after", "details"}.isdisjoint(body)


@pytest.mark.parametrize(
    ("limits", "used", "names"),
    [
        (Limits(), 2, ("RATE_LIMIT_PER_MINUTE", None)),
        (Limits(requests_per_minute=1), 1, (None, "requests_per_minute")),
        (Limits(requests_per_hour=1), 1, (None, "requests_per_hour")),
        (Limits(requests_per_minute=0), 3, ("RATE_LIMIT_PER_HOUR", None)),
    ],
)
def test_a_limit_of_the_client_is_named_in_place_of_the_setting(limits, used, names):
    """By the window that refuses: each may be the client's own."""
    limiter = RateLimiter(2, 3)
    for _ in range(used):
        limiter.spend("generation", "a", limits=limits)
    with pytest.raises(OverBudget) as caught:
        limiter.spend("generation", "a", limits=limits)
    assert (caught.value.setting, caught.value.limit) == names
