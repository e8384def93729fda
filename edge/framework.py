"""Flask, without what it would do at every request that this service has no use for.

A chat that a server elsewhere answers is little more than these calls: each one saved is time to its first text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
from flask import Request, Response
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter
from werkzeug.wsgi import get_host


class Flask(flask.Flask):
    """An application of one host, whose views and hooks are ordinary functions."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: none here is asynchronous, which Flask would find out at each call of each."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the routes as this request sees them: from what it has read already, not from its environment again.

        Raises SecurityError and BadHost for a Host that is no name.
        """
        if request is None:
            return super().create_url_adapter(request)
        request.host = get_host(request.environ)
        query = request.query_string.decode(errors="replace")
        return self.url_map.bind(
            request.host, request.root_path, "", request.scheme, request.method, request.path, query_args=query
        )


class StreamResponse(Response):
    """The response of a stream, whose headers are complete as they are: no length, and no other address."""

    def get_wsgi_headers(self, environ: dict[str, Any]) -> Headers:
        return self.headers
