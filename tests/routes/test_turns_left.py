"""A request whose thread waits for another process or server leaves its turn to others, and takes it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge import turns
from engine.errors import Overloaded
from routes.services import services
from tests.fakes import image_bytes, multipart
from tests.good_requests import good_request

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Held:
    """The turn of a request. held: whether it has it now."""

    held = True

    def leave(self) -> None:
        self.held = False

    def take(self, at_most: float = 0.0) -> None:
        self.held = True


@pytest.fixture
def turn():
    """The turn of every request of this test."""
    turn = Held()
    token = turns._turn.set(turn)  # type: ignore[arg-type]
    yield turn
    turns._turn.reset(token)


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
    """The database may be away."""
    seen, usage = [], services(app).usage
    caught_up = usage.catch_up
    monkeypatch.setattr(usage, "catch_up", lambda: seen.append(turn.held) or caught_up())
    for path in ("/api/v1/usage", "/api/admin/usage"):
        turn.held = True
        assert client.get(path).status_code == 200
        assert turn.held
    assert seen == [False, False]


@pytest.mark.parametrize(("fields", "elsewhere"), [({"tools": TOOLS}, True), ({"tools": TOOLS}, False), ({}, True)])
def test_schemas_for_a_server_elsewhere_are_tried_without_a_turn(client, avibe, monkeypatch, turn, fields, elsewhere):
    """What waits for nobody keeps its turn: a plain chat, and the rules of an answer for an engine of ours."""
    avibe._info = replace(avibe.info, elsewhere=elsewhere, tools=True)
    seen, submit = [], avibe.submit
    monkeypatch.setattr(avibe, "submit", lambda request: seen.append(turn.held) or submit(request))
    body = good_request(CHAT)["json"] | fields
    assert client.post(CHAT, json=body).status_code == 200
    assert seen == [not (fields and elsewhere)]
