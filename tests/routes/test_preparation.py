"""A client that leaves while its request is prepared, in whichever stage: the work ends, and nothing is left behind."""

import select
import socket
import threading

import pytest

from engine.errors import DeadlineExceeded, Overloaded
from engine.text.image_decoder import InProcessDecoder
from engine.types import Vocabulary
from engine.wanted import Wanted
from tests.fakes import PATIENCE, image_bytes, multipart

pytestmark = pytest.mark.skipif(
    not hasattr(select, "EPOLLRDHUP"), reason="sockets of a socketpair are polled elsewhere"
)


class Leaver:
    """A client whose end of the connection the test closes; `post` waits for the response."""

    def __init__(self, client):
        self._client = client
        self._ours, self._theirs = socket.socketpair()

    def leave(self):
        self._theirs.close()

    def post(self, path, **request):
        try:
            return self._client.post(path, environ_overrides={"gunicorn.socket": self._ours}, **request)
        finally:
            self._ours.close()
            self._theirs.close()


@pytest.fixture
def leaver(client):
    return Leaver(client)


def preparing(backend, leaver, on_submit=1, method="submit"):
    """Have the backend prepare until nobody wants the answer; the client leaves meanwhile."""
    submit, calls = getattr(backend, method), []

    def wait(request):
        calls.append(request)
        if len(calls) < on_submit:
            return submit(request)
        wanted = Wanted()
        with request.cancellation.notifying(wanted.cancel):
            leaver.leave()
            for _ in range(2):
                wanted.wait(PATIENCE)
        raise AssertionError("nobody ended it")

    setattr(backend, method, wait)
    return calls


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/text/generate", {"prompt": "x"}),
        ("/api/v1/text/generate", {"prompt": "x", "stream": True}),
        ("/v1/chat/completions", {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"model": "avibe", "prompt": "x"}),
        ("/v1/messages", {"model": "avibe", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_a_client_that_leaves_ends_the_preparation(leaver, avibe, path, body):
    """The watch begins before the engine is asked."""
    preparing(avibe, leaver)
    assert leaver.post(path, json=body).status_code == 499
    assert avibe.stats().num_requests_running == 0


def test_a_client_that_leaves_ends_the_counting(leaver, avibe):
    """Nobody wants the number of its tokens any more."""
    preparing(avibe, leaver, method="tokenize")
    body = {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}
    assert leaver.post("/v1/messages/count_tokens", json=body).status_code == 499


def test_an_image_is_no_longer_prepared_either(leaver, avision):
    """Of the page and of the API."""
    preparing(avision, leaver)
    form = multipart([("image", (image_bytes(), "a.png")), ("prompt", "x")])
    assert leaver.post("/api/v1/image/analyze", **form).status_code == 499


def test_answers_that_were_submitted_already_are_aborted(leaver, avibe):
    """The client leaves while the third of them is prepared, and the fourth is not begun."""
    avibe.hold = True
    calls = preparing(avibe, leaver, on_submit=3)
    body = {"model": "avibe", "messages": [{"role": "user", "content": "x"}], "n": 4}
    assert leaver.post("/v1/chat/completions", json=body).status_code == 499
    avibe.wait_for(lambda backend: len(backend.aborted) == 2)
    assert len(calls) == 3


def test_an_abort_that_comes_before_the_generation_is_not_lost(leaver, avibe):
    """The client leaves while `submit` returns: whoever comes second aborts."""
    submit = avibe.submit
    avibe.hold = True

    def leave_first(request):
        told = threading.Event()
        with request.cancellation.notifying(told.set):
            leaver.leave()
            assert told.wait(PATIENCE)
        return submit(request)

    avibe.submit = leave_first
    assert leaver.post("/api/v1/text/generate", json={"prompt": "x"}).status_code == 499
    assert len(avibe.aborted) == 1


def test_a_batch_that_is_left_prepares_nothing_more(leaver, avibe):
    """Its texts share one cancellation."""
    calls = preparing(avibe, leaver)
    leaver.post("/api/v1/text/batch", json={"prompts": ["x", "y", "z"]})
    assert len(calls) == 1


def test_a_grammar_that_nobody_waits_for_is_not_waited_for(app, leaver, avibe, monkeypatch):
    """The client leaves while its schema is compiled."""
    tokens = (b"", *(bytes([code]) for code in range(256)))
    avibe.tokens = Vocabulary(tokens, frozenset({0}), lambda text: [byte + 1 for byte in text.encode()])
    gate = threading.Event()

    def hang(self, grammar):
        leaver.leave()
        assert gate.wait(PATIENCE)

    monkeypatch.setattr("engine.text.grammar.Grammars._compile", hang)
    body = {
        "model": "avibe",
        "messages": [{"role": "user", "content": "x"}],
        "response_format": {"type": "json_object"},
    }
    assert leaver.post("/v1/chat/completions", json=body).status_code == 499
    gate.set()
    assert avibe.submitted == []


class Thumbnails(InProcessDecoder):
    """Decodes as the test says; the backend of the tests decodes by itself."""

    def __init__(self, act):
        self.act = act

    def decode(self, job, wanted):
        self.act(wanted)
        return super().decode(job, wanted)


def question():
    return multipart([("image", (image_bytes(), "a.png")), ("prompt", "x")])


def test_a_thumbnail_is_decoded_where_the_models_images_are(app, client, models):
    """And nobody waits for it once the client has left."""
    seen, leaver = [], Leaver(client)

    def leave(wanted):
        seen.append(wanted)
        leaver.leave()
        for _ in range(2):
            wanted.wait(PATIENCE)

    models.image_decoder = Thumbnails(leave)
    assert leaver.post("/avision", **question()).status_code == 499
    assert len(seen) == 1


@pytest.mark.parametrize("error", [Overloaded("No memory."), DeadlineExceeded("Too late.")])
def test_an_answer_is_shown_without_a_thumbnail_that_cannot_be_made_now(client, models, error):
    """The answer is there already."""

    def fail(wanted):
        raise error

    models.image_decoder = Thumbnails(fail)
    page = client.post("/avision", **question())
    assert page.status_code == 200
    assert "An answer." in page.text
    assert 'class="thumbnail"' not in page.text
