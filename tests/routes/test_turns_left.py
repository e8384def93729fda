"""A request whose thread waits for another process or server leaves its turn to others, and takes it again."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from flask import has_request_context
from sqlalchemy import event

import middleware
from database.connect import Database
from edge.route_table import ROUTES, Need
from edge.shared_windows import SharedWindows, StoredWindows
from engine.backend import Generation
from engine.errors import Overloaded
from routes.generation_run import Run
from routes.services import services
from tests.edge.limit_storage import ListedEntries
from tests.fakes import image_bytes, multipart
from tests.good_requests import TEXT, call, good_request
from tests.held_turn import held_turn

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture
def turn():
    """The turn of every request of this test."""
    with held_turn() as turn:
        yield turn


@pytest.fixture
def environ(environ, tmp_path):
    """A database of its own."""
    return {**environ, "STATE_DIR": str(tmp_path)}


@pytest.mark.parametrize("error", [None, Overloaded("The decoders are busy.", 1)])
def test_thumbnails_are_waited_for_without_a_turn(client, monkeypatch, turn, error):
    """Also where none is made; the page is written in its turn."""
    seen = []

    def made(*args):
        seen.append(turn.held)
        if error is not None:
            raise error
        return "data:,"

    monkeypatch.setattr("routes.pages.thumbnail_url", made)
    monkeypatch.setattr("routes.pages.render_template", lambda *args, **values: seen.append(turn.held) or "")
    form = multipart([("prompt", "What?"), ("image", (image_bytes(), "a.png"))])
    assert client.post("/avision", **form).status_code == 200
    assert seen == [False, True]


def test_usage_is_looked_up_without_a_turn(client, app, monkeypatch, turn):
    """The thread that stores what was recorded may be waiting for the database."""
    seen, usage = [], services(app).usage
    caught_up = usage.catch_up
    monkeypatch.setattr(usage, "catch_up", lambda: seen.append(turn.held) or caught_up())
    for path in ("/api/v1/usage", "/api/admin/usage"):
        turn.held = True
        assert client.get(path).status_code == 200
        assert turn.held
    assert seen == [False, False]


def test_no_route_waits_for_the_database_in_its_turn(client, app, monkeypatch, turn):
    """Whoever has a route that does so leaves the turn around it; each goes on in its turn."""
    seen, finish = [], middleware.id_headers
    monkeypatch.setattr(middleware, "id_headers", lambda *args: seen.append(("end", turn.held)) or finish(*args))
    monkeypatch.setattr(Database, "engine", noting(Database.engine, lambda: seen.append(("database", turn.held))))
    event.listen(
        services(app).database.engine(),
        "before_cursor_execute",
        lambda *_: has_request_context() and seen.append(("database", turn.held)),
    )
    routes = [name for name, row in ROUTES.items() if row.need in (Need.OPERATOR, Need.LOCAL_OR_ADMIN, Need.CLIENT)]
    asked = set()
    for name in routes:
        seen.clear()
        turn.held = True
        call(client, name)
        if ("database", False) in seen:
            asked.add(name)
        assert (name, ("database", True)) not in [(name, one) for one in seen]
        if "/status/" in name or "usage" in name:
            assert (name, seen[-1]) == (name, ("end", True))
    assert asked >= {"GET /status/keys", "POST /status/keys", "GET /status/audit", "GET /status/usage"}
    assert asked >= {"GET /api/v1/usage", "GET /api/admin/usage", "GET /api/admin/audit", "GET /status/usage.csv"}


def noting(method, note):
    """Return a method that notes its calls within a request."""

    def noted(self, *args, **options):
        if has_request_context():
            note()
        return method(self, *args, **options)

    return noted


class TestLimits:
    """Of accounts with limits."""

    @pytest.fixture
    def environ(self, environ):
        """A budget of tokens, which the database is read for, and a rate limit."""
        return {**environ, "DEFAULT_TOKENS_PER_DAY": "1000000", "RATE_LIMIT_PER_MINUTE": "1000"}

    def test_the_first_reading_of_an_account_is_waited_for_without_a_turn(self, client, app, monkeypatch, turn):
        """The database may take its second; the request goes on in its turn."""
        totals, seen = services(app).spending.budgets.totals, []
        totals._reading = True
        monkeypatch.setattr(totals._changed, "wait_for", lambda *args: seen.append(turn.held))
        assert client.post(TEXT, **good_request(TEXT)).status_code == 200
        assert {*seen} == {False}

    def test_redis_is_asked_for_the_rate_limit_without_a_turn(self, client, app, turn):
        """It may take a quarter of a second."""
        seen = []

        class Redis(ListedEntries):
            def acquire_entry(self, *args, **options):
                seen.append(turn.held)
                return super().acquire_entry(*args, **options)

            def get_moving_window(self, *args):
                seen.append(turn.held)
                return super().get_moving_window(*args)

        limiter = services(app).rate_limiter
        limiter._shared = SharedWindows(StoredWindows(Redis(time.time), time.time))
        assert client.post(TEXT, **good_request(TEXT)).headers["RateLimit-Remaining"] == "999"
        assert seen
        assert {*seen} == {False}


@pytest.mark.parametrize(("fields", "elsewhere"), [({"tools": TOOLS}, True), ({"tools": TOOLS}, False), ({}, True)])
def test_schemas_for_a_server_elsewhere_are_tried_without_a_turn(client, avibe, monkeypatch, turn, fields, elsewhere):
    """What waits for nobody keeps its turn: a plain chat, and the rules of an answer for an engine of ours."""
    avibe._info = replace(avibe.info, elsewhere=elsewhere, tools=True)
    seen, submit = [], avibe.submit
    monkeypatch.setattr(avibe, "submit", lambda request: seen.append(turn.held) or submit(request))
    body = good_request(CHAT)["json"] | fields
    assert client.post(CHAT, json=body).status_code == 200
    assert seen == [not (fields and elsewhere)]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": "high"}),
        ("/v1/responses", {"input": "Hi", "reasoning": {"effort": "high"}}),
    ],
)
def test_a_whole_answer_with_reasoning_is_waited_for_without_a_turn(client, monkeypatch, turn, path, fields):
    """Whatever else took it before; the body is written in its turn."""
    seen, result = [], Generation.result
    monkeypatch.setattr(Run, "wait_for_begin", lambda run: turn.take())
    monkeypatch.setattr(Generation, "result", lambda one: (seen.append(turn.held), result(one))[1])
    assert client.post(path, json={"model": "avibe"} | fields).status_code == 200
    assert seen == [False, True]  # the second time it is there
    assert turn.held
