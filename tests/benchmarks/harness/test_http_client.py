"""The client against a scripted server: what it sends, what it makes of every kind of answer."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from benchmarks.harness.figures import Outcome
from benchmarks.harness.http_client import CHAT, OWN_IMAGE, OWN_TEXT, Target, ask
from benchmarks.harness.workload import Job, Workload
from tests.benchmarks.harness.scripted_server import PIECES, scripted, stream

JOB = Job("three words please", max_tokens=3, temperature=0.7)
WHOLE = json.dumps({"success": True, "data": {"text": "x", "generated_tokens": 3, "input_tokens": 9}}).encode()


def asked_once(target: Target, job: Job = JOB) -> Outcome:
    return asyncio.run(ask(target, job, time.perf_counter()))


def test_a_stream_is_timed_at_its_pieces() -> None:
    """Tokens come from the usage, moments from the arrivals of text."""
    with scripted(200, stream()) as server:
        outcome = asked_once(Target(f"{server.address}/v1{CHAT}", "avibe", key="k"))
    path, headers, body = server.asked[0]
    assert outcome.error is None
    assert (outcome.tokens, len(outcome.gaps)) == (len(PIECES), len(PIECES) - 1)
    assert outcome.first is not None
    assert 0 < outcome.first <= outcome.seconds
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer k")
    assert body["messages"] == [{"role": "user", "content": JOB.prompt}]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("avibe", 3, True)


def test_our_own_route_streams_too() -> None:
    """Its events have shapes of their own."""
    events = b'data: {"text": "a"}\n\ndata: {"text": "b"}\n\ndata: ' + WHOLE + b"\n\n"
    with scripted(200, events) as server:
        outcome = asked_once(Target(server.address + OWN_TEXT))
    assert (outcome.tokens, len(outcome.gaps), outcome.error) == (3, 1, None)
    assert server.asked[0][2] == {"prompt": JOB.prompt, "max_tokens": 3, "temperature": 0.7, "stream": True}


def test_an_answer_in_one_piece_has_no_first_text() -> None:
    """The tokens are known, the first text is not."""
    with scripted(200, WHOLE) as server:
        outcome = asked_once(Target(server.address + OWN_TEXT, whole=True))
    assert (outcome.tokens, outcome.first, outcome.error) == (3, None, None)
    assert server.asked[0][2] == {"prompt": JOB.prompt, "max_tokens": 3, "temperature": 0.7}


def test_an_image_travels_as_a_data_url() -> None:
    """In the form that each route takes."""
    job = Workload(images=True).jobs(1, 0)[0]
    with scripted(200, stream()) as server:
        asked_once(Target(f"{server.address}/v1{CHAT}", "avision"), job)
    image, text = server.asked[0][2]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": job.prompt}
    with scripted(200, WHOLE) as server:
        asked_once(Target(server.address + OWN_IMAGE, whole=True), job)
    assert server.asked[0][2]["image"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b'{"error": "overloaded"}', "status 503"),
        (200, stream(complete=False), "the stream ended without a finish"),
        (200, b"data: {broken\n\n", "an answer that cannot be read (JSONDecodeError)"),
        (200, b"data: [DONE]\n\n", "the answer did not say how many tokens it has"),
    ],
    ids=["refused", "cut off", "no JSON", "no usage"],
)
def test_what_is_not_an_answer_is_a_failure(status: int, body: bytes, error: str) -> None:
    """Nothing but a whole answer counts."""
    with scripted(status, body) as server:
        assert asked_once(Target(f"{server.address}/v1{CHAT}")).error == error


def test_a_server_that_is_not_there_is_a_failure() -> None:
    """The benchmark goes on and counts it."""
    with scripted(200, b"") as server:
        address = server.address
    assert asked_once(Target(f"{address}/v1{CHAT}")).error is not None


def test_a_server_that_never_answers_is_a_failure() -> None:
    """The client's own time-out ends the wait."""
    with scripted(200, stream()) as server:
        target = Target(f"{server.address}/v1{CHAT}", timeout=0.0)
        assert asked_once(target).error == "no end within 0 s"


@pytest.mark.parametrize("url", ["https://a/v1/chat/completions", "http://a/v1/other", "a/v1/chat/completions"])
def test_an_unknown_route_is_refused_before_anything_is_measured(url: str) -> None:
    """The dialect is known by the path."""
    with pytest.raises(ValueError, match="expected"):
        Target(url)
