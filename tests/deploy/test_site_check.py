"""The check of a deployed site passes for one that serves, and names what is wrong with one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.site_check import CHECKS, Site, Wrong, load, main
from tests.deploy.monitoring.sinks import serving

Answer = tuple[int, bytes]
STREAM = b'data: {"choices": []}\n\ndata: [DONE]\n\n'
GOOD: dict[str, Answer] = {
    "/": (200, b'<form action="/avibe">'),
    "/api/v1/text/generate": (200, b'{"data": {"text": "yes"}}'),
    "/api/v1/image/analyze": (200, b"{}"),
    "/v1/chat/completions": (200, STREAM),
    "/metrics": (403, b"{}"),
    "/status": (403, b"{}"),
}


class Stand:
    """A site whose answers are those of `answers`; an empty prompt is refused. asked: paths and keys."""

    def __init__(self) -> None:
        self.answers = dict(GOOD)
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    def answer(self, path: str, body: dict[str, object]) -> Answer:
        if body.get("prompt") == "":
            return 400, b"{}"
        return self.answers.get(path, (404, b"{}"))


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, object]) -> None:
            stand.asked.append((self.path, self.headers.get("Authorization", "")))
            status, answer = stand.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        stand.url = f"http://127.0.0.1:{port}"
        yield stand


def test_a_site_that_serves_passes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each interface is tried, with the key of the environment, and the load is told in one line."""
    monkeypatch.setenv("API_KEY", "a key")
    assert main([f"{stand.url}/", "--seconds", "0.05"]) == 0
    assert {key for _, key in stand.asked} == {"Bearer a key"}
    out = capsys.readouterr().out
    assert all(f"{check.__name__}: as it should be" in out for check in CHECKS)
    assert "answers to 4 clients" in out


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/api/v1/text/generate", (500, b"no"), "/api/v1/text/generate answered 500 instead of 200: no"),
        ("/api/v1/text/generate", (200, b'{"data": {"text": ""}}'), "without a text"),
        ("/api/v1/image/analyze", (503, b"{}"), "/api/v1/image/analyze answered 503"),
        ("/v1/chat/completions", (200, b"data: {}\n\n"), "has no end"),
        ("/", (200, b"another site"), "lacks its form"),
        ("/api/v1/nothing", (200, b"{}"), "/api/v1/nothing answered 200 instead of 404"),
        ("/metrics", (200, b"avito_ai_requests_total 1"), "/metrics is open to everybody"),
    ],
)
def test_what_is_wrong_is_named(
    stand: Stand, path: str, answer: Answer, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, and status 1, before any load."""
    stand.answers[path] = answer
    assert main([stand.url, "--seconds", "0.01"]) == 1
    assert said in capsys.readouterr().err


def statuses(*given: int) -> Callable[[str, dict[str, object]], Answer]:
    """Answer with these, and then with the last one."""
    left = list(given)
    return lambda path, body: (left.pop(0) if len(left) > 1 else left[0], STREAM)


@pytest.mark.parametrize("given", [(200, 200, 502), (500,), (429,)])
def test_a_load_with_failures_or_without_answers_fails(stand: Stand, given: tuple[int, ...]) -> None:
    """A gateway's error counts, however rare; refusals alone are no proof that the site serves."""
    stand.answer = statuses(*given)  # type: ignore[method-assign]
    with pytest.raises(Wrong, match="by status"):
        load(Site(stand.url), 0.0, clients=3)


def test_limits_may_refuse_a_part_of_the_load(stand: Stand) -> None:
    """429 and 503 are what a site with limits says."""
    stand.answer = statuses(429, 503, 200)  # type: ignore[method-assign]
    assert "2 refused by limits" in load(Site(stand.url), 0.0, clients=3)


def test_a_site_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a traceback."""
    assert main(["http://127.0.0.1:9"]) == 1
    assert "answered 0 instead of 200" in capsys.readouterr().err


def test_a_key_whose_file_is_gone_is_said(
    stand: Stand, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked without the key."""
    monkeypatch.delenv("API_KEY", raising=False)
    monkeypatch.setenv("API_KEY_FILE", "/none/such")
    assert main([stand.url]) == 1
    assert "API_KEY_FILE=/none/such cannot be read" in capsys.readouterr().err
