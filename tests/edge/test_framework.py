"""What the application leaves out of Flask's work changes nothing that a request meets."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from gunicorn.http.wsgi import Response
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.routing import MapAdapter
from werkzeug.test import create_environ

from edge.framework import Flask, StreamResponse
from serving.plain_request import CHECKED

PATHS = st.one_of(
    st.sampled_from(["/", "//", "/a", "/a/", "//a//b", "/%D1%8F", "/a b"]), st.text(min_size=1, max_size=8)
)
HOSTS = ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "пример.рф", "a..b", "a b", "a/b", "x" * 64, ""]
FIELDS = ("server_name", "script_name", "subdomain", "url_scheme", "default_method")


def adapter_of(application: flask.Flask, environ: dict[str, Any]) -> MapAdapter | type[Exception]:
    context = application.request_context(environ)
    if context.url_adapter is not None:
        return context.url_adapter
    assert context.request.routing_exception is not None
    return type(context.request.routing_exception)


@given(path=PATHS, query=st.text(max_size=8), host=st.sampled_from(HOSTS), method=st.sampled_from(["GET", "POST"]))
def test_the_routes_of_a_request_are_those_that_flask_binds(path: str, query: str, host: str, method: str) -> None:
    environ = create_environ(method=method)
    environ["PATH_INFO"] = path.encode().decode("latin-1")
    environ["QUERY_STRING"] = query.encode().decode("latin-1")
    environ["HTTP_HOST"] = host.encode().decode("latin-1")
    ours, flasks = (adapter_of(one("x"), dict(environ)) for one in (Flask, flask.Flask))
    if isinstance(flasks, MapAdapter):
        assert isinstance(ours, MapAdapter)
        assert [getattr(ours, name) for name in FIELDS] == [getattr(flasks, name) for name in FIELDS]
        assert ours.path_info.lstrip("/") == flasks.path_info.lstrip("/")  # a route is looked for without them
        assert (ours.query_args or "") == (flasks.query_args or "")
    else:
        assert ours is flasks


def test_without_a_request_there_are_the_routes_that_flask_gives() -> None:
    assert Flask("x").create_url_adapter(None) is None


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_stream_has_the_headers_that_it_was_given(method: str) -> None:
    given = StreamResponse(iter((b"data: 1\n\n",)), headers={"X-A": "1"}, content_type="text/event-stream")
    parts, status, headers = given.get_wsgi_response(create_environ(method=method))
    assert (status, headers) == ("200 OK", [("X-A", "1"), ("Content-Type", "text/event-stream")])
    assert b"".join(parts) == (b"" if method == "HEAD" else b"data: 1\n\n")


@pytest.mark.parametrize("header", sorted(CHECKED))
def test_gunicorn_lets_the_headers_pass_that_are_not_checked_again(header: tuple[str, str]) -> None:
    response = Response.__new__(Response)
    response.headers = []
    response.process_headers([header])
    assert response.headers == [header]
