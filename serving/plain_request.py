"""Requests whose head the poller has read already: Gunicorn's parser does not read it again.

Such a head leaves no doubt (`edge.request_head`), and the body behind it has a length and has arrived. The application
gets the environment that Gunicorn would make for it; what else there is goes Gunicorn's own way. A response's head and
its first part leave in one write.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.errors import ConfigurationProblem
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from edge import errors
from edge.request_head import RequestHead, keeps_alive
from serving.framing import Framing

if TYPE_CHECKING:
    from serving.connection import Connection

Environ = dict[str, Any]
OWN_NAMES = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class ParsedRequest(Request):  # type: ignore[misc]
    """A request that Gunicorn's parser reads; Gunicorn itself takes a list of connection options for one of them."""

    def should_close(self) -> bool:
        if self.must_close or self.method == "CONNECT":
            return True
        connection = ",".join(value for name, value in self.headers if name == "CONNECTION")
        return not keeps_alive(connection, http_1_1=self.version > (1, 0))


class PlainRequest(ParsedRequest):
    """What Gunicorn's parser would say of a request with this head. peer: the address of its connection."""

    def __init__(self, cfg: Config, head: RequestHead, framing: Framing | None, peer: object) -> None:
        # Gunicorn's own would read and parse.
        self.cfg, self.peer_addr, self.remote_addr = cfg, peer, peer
        self.method, self.version, self.scheme = "POST", (1, 1), "http"
        self.uri, self.fragment = head.target, ""
        self.path, _, self.query = head.target.partition("?")
        self.head = head
        self.headers = [(name.upper(), value) for name, values in head.fields.items() for value in values]
        self.trailers: list[tuple[str, str]] = []
        self.body = Body(framing)
        self.proxy_protocol_info = None
        self.must_close = self._expected_100_continue = False


class Body(io.RawIOBase):
    """The body of a request that has arrived."""

    def __init__(self, framing: Framing | None) -> None:
        self._framing = framing

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return b"" if self._framing is None else self._framing.read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Parser(RequestParser):  # type: ignore[misc]
    """The requests of one connection."""

    mesg_class = ParsedRequest

    def __next__(self) -> Request:
        sock = self.unreader.sock
        if sock.plain_head is None:
            return super().__next__()
        self.req_count += 1
        self.mesg = PlainRequest(self.cfg, sock.plain_head, sock.request, self.source_addr)
        return self.mesg

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Pass over what was not read of a body; of one that has arrived, nothing is left on the connection."""
        return isinstance(self.mesg, PlainRequest) or bool(super().finish_body(deadline, max_bytes))


class PlainResponse(wsgi.Response):  # type: ignore[misc]
    """Sends the head and the first part in one write."""

    sock: Any

    def write(self, arg: bytes) -> None:
        if self.headers_sent:
            super().write(arg)
            return
        sock, self.sock = self.sock, _Gathered()
        try:
            super().write(arg)
        finally:
            gathered, self.sock = self.sock, sock
        sock.sendall(b"".join(gathered.parts))


class _Gathered:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.parts.append(data)


def template(cfg: Config) -> Environ | None:
    """Return what the environments of all requests have in common, None where the application is mounted at a path."""
    blank = PlainRequest(cfg, RequestHead("/", "/", {}), None, ("", 0))
    try:
        environ: Environ = wsgi.create(blank, None, ("", 0), ("", 0), cfg)[1]
    except ConfigurationProblem:
        return None
    if environ["SCRIPT_NAME"]:
        return None
    environ["wsgi.multithread"] = True
    del environ["wsgi.early_hints"], environ["wsgi.file_wrapper"]  # of which the application makes no use
    return environ


def environ_of(request: PlainRequest, conn: Connection, common: Environ | None) -> Environ:
    """Return the environment of a request. common: the `template`."""
    if common is None or not isinstance(conn.server, tuple) or not isinstance(conn.client, tuple):
        environ: Environ = wsgi.create(request, conn.sock, conn.client, conn.server, request.cfg)[1]
        return environ
    fields = {
        OWN_NAMES.get(name) or "HTTP_" + name.upper().replace("-", "_"): ",".join(values)
        for name, values in request.head.fields.items()
    }
    return {
        **common,
        **fields,
        "wsgi.input": request.body,
        "wsgi.url_scheme": request.scheme,
        "gunicorn.socket": conn.sock,
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "PATH_INFO": request.path,
        "REMOTE_ADDR": conn.client[0],
        "REMOTE_PORT": str(conn.client[1]),
        "SERVER_NAME": conn.server[0],
        "SERVER_PORT": str(conn.server[1]),
    }


def serve(
    application: Callable[..., Iterable[bytes]],
    request: PlainRequest,
    conn: Connection,
    common: Environ | None,
    last: bool,
) -> bool:
    """Serve a request; return whether its connection may serve another. last: it may not, in any case.

    Raises StopIteration behind an error that came in the middle of a response.
    """
    response = PlainResponse(request, conn.sock, request.cfg)
    if last:
        response.force_close()
    try:
        parts = application(environ_of(request, conn, common), response.start_response)
        try:
            for part in parts:
                response.write(part)
            response.close()
        finally:
            if hasattr(parts, "close"):
                parts.close()
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        if not response.headers_sent:
            raise
        errors.log_unexpected(error)
        # Another head in the middle of this response would be read as a part of it.
        util.close_graceful(conn.sock)
        raise StopIteration from None
    return not response.should_close()
