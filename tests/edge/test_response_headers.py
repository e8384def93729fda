"""The headers that every response carries."""

import pytest
from flask import Flask
from flask_cors import CORS

from edge.response_headers import CORS_EXPOSED, cors_headers

PAGES = ("https://b.example", "https://a.example")


@pytest.mark.parametrize("allowed", [("*",), PAGES[:1], PAGES])
@pytest.mark.parametrize("origin", [None, "null", *PAGES, PAGES[0].upper(), "https://else.example"])
def test_ordinary_responses_name_their_origin_as_flask_cors_does(allowed, origin):
    """For every kind of page, and for a program, which names none; of a list, caches are told in any case."""
    app = Flask("plain")
    CORS(app, origins=list(allowed), expose_headers=CORS_EXPOSED, send_wildcard=allowed == ("*",))
    app.add_url_rule("/", view_func=lambda: "")
    response = app.test_client().get("/", headers={} if origin is None else {"Origin": origin})
    theirs = {name: value for name, value in response.headers if name not in ("Content-Type", "Content-Length")}
    told = {} if allowed == ("*",) else {"Vary": "Origin"}
    assert cors_headers(allowed, origin) == theirs | told


@pytest.mark.parametrize("environ", [{"ALLOWED_ORIGINS": origins} for origins in ("*", ",".join(PAGES))])
def test_every_kind_of_response_names_its_origin_once(client):
    """An answer, a failure, a preflight, and what a page of a private network asks for."""
    asked = {"Origin": PAGES[0]}
    preflight = asked | {"Access-Control-Request-Method": "POST"}
    responses = [
        client.get("/api/health", headers=asked),
        client.get("/api/nothing", headers=asked),
        client.options("/v1/chat/completions", headers=preflight),
        client.get("/api/health", headers=asked | {"Access-Control-Request-Private-Network": "true"}),
    ]
    assert [len(one.headers.getlist("Access-Control-Allow-Origin")) for one in responses] == [1] * 4
    assert [len(one.headers.getlist("Access-Control-Expose-Headers")) for one in responses] == [1] * 4
