"""Events are posted once they can be, never anywhere else, and nothing waits for it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from usage.webhook import PAUSES, WAITING, Webhook

EVENT = {"event": "budget_warning", "text": "Бюджет"}


@pytest.fixture
def hook():
    """A server that answers with the statuses of `answers`, the last one for ever, and keeps what it was sent."""

    class Hook(BaseHTTPRequestHandler):
        answers, got = [204], []

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            Hook.got.append((self.path, dict(self.headers), json.loads(body)))
            status = Hook.answers.pop(0) if len(Hook.answers) > 1 else Hook.answers[0]
            self.send_response(status)
            if status in (301, 302, 307, 308):
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    Hook.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Hook
    server.shutdown()
    thread.join(60)
    server.server_close()


@pytest.fixture
def pauses():
    return []


def webhook(url, pauses, timeout=60.0):
    return Webhook(url, pauses.append, timeout)


def test_an_event_is_posted_as_json(hook, pauses):
    """To the path and query of the address, with its user and password; in one try where that arrives."""
    webhook(hook.url.replace("//", "//me:p%40ss@") + "/T0/secret?a=b", pauses).deliver(EVENT)
    ((path, headers, body),) = hook.got
    assert (path, body) == ("/T0/secret?a=b", EVENT)
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert pauses == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(hook, pauses, status, caplog):
    """Nothing but the address is asked; a redirect counts as a failure, and the log does not show the path."""
    hook.answers = [status]
    hook_to = webhook(f"{hook.url}/secret", pauses)
    hook_to.deliver(EVENT)
    assert {path for path, *_ in hook.got} == {"/secret"}
    assert hook_to.failures == 1
    assert "secret" not in caplog.text
    assert str(status) in caplog.text


def test_it_is_tried_again_until_it_arrives(hook, pauses):
    """A server that is away for a while gets the event in the end."""
    hook.answers = [500, 429, 200]
    hook_to = webhook(hook.url, pauses)
    hook_to.deliver(EVENT)
    assert len(hook.got) == 3
    assert (pauses, hook_to.failures) == ([*PAUSES[:2]], 0)


def test_it_is_given_up_after_the_last_try(hook, pauses):
    """Four tries, and one failure."""
    hook.answers = [500]
    hook_to = webhook(hook.url, pauses)
    hook_to.deliver(EVENT)
    assert len(hook.got) == 4
    assert (pauses, hook_to.failures) == ([*PAUSES], 1)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "https://127.0.0.1:1/", "http://127.0.0.1:1/б"]
)
def test_an_address_that_cannot_be_reached_is_a_failure(url, pauses):
    """It raises nothing."""
    hook_to = webhook(url, pauses)
    hook_to.deliver(EVENT)
    assert hook_to.failures == 1


def test_a_server_that_does_not_answer_is_left(pauses):
    """After the time-out of each try."""
    silent = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # accepts in its backlog, and reads nothing
    try:
        hook_to = webhook(f"http://127.0.0.1:{silent.server_port}/", pauses, timeout=0.05)
        hook_to.deliver(EVENT)
        assert hook_to.failures == 1
    finally:
        silent.server_close()


def test_sending_never_blocks(pauses):
    """Events wait for the thread, and those that find no room are dropped and counted."""
    hook_to = webhook("http://127.0.0.1:1/", pauses)
    for _ in range(WAITING + 3):
        hook_to.send(EVENT)
    assert hook_to.failures == 3


def test_a_thread_posts_what_is_sent(hook, pauses):
    """Whoever sends goes on at once."""
    hook_to = webhook(hook.url, pauses)
    hook_to.start()
    hook_to.send(EVENT)
    arrived = threading.Event()
    for _ in range(1000):
        if hook.got or arrived.wait(0.01):
            break
    assert [body for *_, body in hook.got] == [EVENT]


def test_an_event_that_cannot_be_written_does_not_end_the_thread(hook, pauses):
    """It counts as a failure, and the next one is posted."""
    hook_to = webhook(hook.url, pauses)
    hook_to.start()
    hook_to.send({"event": object()})
    hook_to.send(EVENT)
    arrived = threading.Event()
    for _ in range(1000):
        if hook.got or arrived.wait(0.01):
            break
    assert [body for *_, body in hook.got] == [EVENT]
    assert hook_to.failures == 1
