"""Budgets of real servers: two copies on one database, ended without warning and started again."""

import http.client
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.slow

APP = "tests.e2e.answering_app:app"
TOKENS = 12  # of an answer with its prompt
ANSWERS = 5  # until the budget is spent


@pytest.fixture
def hook():
    """An address that events are posted to, and the events."""
    events = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/T0/secret", events
    server.shutdown()
    thread.join(60)
    server.server_close()


@pytest.fixture
def copies(gunicorn, tmp_path, hook):
    """Start copies that share a database; whose requests are all of one address."""

    def start():
        server = gunicorn(
            app=APP,
            DATABASE_URL=f"sqlite:///{tmp_path / 'shared.db'}",
            STATE_DIR=str(tmp_path / "state"),
            DEFAULT_TOKENS_PER_DAY=str(ANSWERS * TOKENS),
            PRICES="1/2",
            BUDGET_WEBHOOK_URL=hook[0],
            RATE_LIMIT_PER_MINUTE="0",
            RATE_LIMIT_PER_HOUR="0",
        )
        until(lambda: _asked(server, "GET", "/api/health/live")[0] == 200)
        return server

    return start


def _asked(server, method, path, body=None):
    """Return status, headers and body of a request; status 0 while nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except (OSError, http.client.HTTPException):
        return 0, {}, b""
    finally:
        connection.close()


def ask(server):
    return _asked(server, "POST", "/api/v1/text/generate", {"prompt": "Hello", "max_tokens": 5})


def test_copies_share_a_budget_and_a_restart_forgets_nothing(copies, hook):
    """What one copy answers counts in the other within seconds, and in the one that replaces a killed one.

    That it is spent is posted once, whichever copy sees it first.
    """
    first, second = copies(), copies()
    for _ in range(ANSWERS - 1):
        status, headers, _ = ask(first)
        assert (status, headers["X-Cost"]) == (200, "0.000017")
    assert ask(second)[0] == 200
    for server in (first, second):
        status, headers, body = until(lambda server=server: (answer := ask(server))[0] == 429 and answer)
        assert json.loads(body)["error"] == "budget_exceeded"
        assert int(headers["Retry-After"]) == json.loads(body)["retry_after"]
    until(lambda: any(event["event"] == "budget_exceeded" for event in hook[1]))
    for server in (first, second):
        server.signal(signal.SIGKILL)
    third = copies()
    until(lambda: ask(third)[0] == 429)
    told = [(event["event"], event["account"], event["budget"]) for event in hook[1]]
    assert len(told) == len(set(told))
    assert ("budget_exceeded", "127.0.0.1", "tokens_per_day") in told
    assert "secret" not in first.log() + second.log() + third.log()
