"""A request whose head the poller has read is, for the application, the one that Gunicorn's own parser would make."""

import contextlib
import itertools
import socket

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

from serving.connection import ClientSocket, Connection
from serving.framing import Framing
from serving.plain_request import ParsedRequest, Parser, PlainRequest, environ_of, serve, template

SERVER, PEER, PROXY = ("127.0.0.1", 8000), ("10.0.0.1", 5000), ("127.0.0.1", 5000)
CONFIG = Config()
CONFIG.set("secure_scheme_headers", {})  # as in gunicorn_config.py
BODY = b'{"prompt": "Hi"}\n{}\n'
# Gunicorn's own, which the application makes no use of, or of which each has one.
APART = {"wsgi.input", "wsgi.errors", "wsgi.early_hints", "wsgi.file_wrapper", "gunicorn.socket", "wsgi.multithread"}
FIELDS = {
    "none": [],
    "usual": ["Content-Type: application/json", "Authorization: Bearer k", "User-Agent: curl/8", "Accept: */*"],
    "repeated": ["X-Forwarded-For: 1.1.1.1", "Accept: a", "X-Forwarded-For: 2.2.2.2", "accept: b"],
    "spaces": ["X-A:  \t a b \t", "X-Empty:", "X-Latin: caf\xe9"],
    "odd names": ["x!#$%&'*+.^`|~-1: 1", "Content-Encoding: gzip", "Cookie: a=b; c=d"],
    "closing": ["Connection: Close", "Origin: null"],
    "kept": ["Connection: keep-alive, x", "Via: 1.1 a"],
    "https": ["X-Forwarded-Proto: https"],
    "http": ["X-Forwarded-Proto: http", "X-Forwarded-Proto: other"],
    "https by another name": ["X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl"],
}
TARGETS = ["/", "/v1/chat/completions", "/v1/chat/completions/", "//a//b", "/a?x=1&y=2", "/a/?", "/..", "/-._/a?_=."]


def head_of(fields, target="/v1/completions", body=BODY):
    """Return a head with these fields."""
    lines = [f"POST {target} HTTP/1.1", "Host: example.org:80", *fields, f"Content-Length: {len(body)}"]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


@contextlib.contextmanager
def opened(peer=PEER, server=SERVER):
    """Yield a connection, and the client's end of it."""
    ours, client = socket.socketpair()
    conn = Connection(CONFIG, ClientSocket(ours, 5.0), peer, server)
    with client, contextlib.closing(conn):
        yield conn, client


def begin(conn, head, body=BODY):
    """Let a request arrive whole, and return what the connection's parser says of it."""
    framing = Framing()
    framing.feed(head + body)
    conn.sock.begin_request(framing, None, body_refused=False)
    conn.init()
    return next(conn.parser)


def by_gunicorn(head, peer, body=BODY):
    """Return Gunicorn's request and the environment that it makes."""
    request = next(RequestParser(CONFIG, iter([head + body]), peer))
    return request, wsgi.create(request, None, peer, SERVER, CONFIG)[1]


@pytest.mark.parametrize("peer", [PEER, PROXY])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_the_environment_is_gunicorns(fields, peer):
    """Every variable, whatever the fields, for a peer that may name the scheme and for others."""
    head = head_of(fields)
    theirs, environ = by_gunicorn(head, peer)
    with opened(peer) as (conn, _):
        request = begin(conn, head)
        ours = environ_of(request, conn, template(CONFIG))
        assert isinstance(request, PlainRequest)
        assert {name: ours[name] for name in ours.keys() - APART} == {
            name: environ[name] for name in environ.keys() - APART
        }
        assert ours["gunicorn.socket"] is conn.sock
        assert request.should_close() == theirs.should_close()
        assert ours["wsgi.input"].read() == BODY


# What a client may say of its connection, and whether HTTP/1.1 and HTTP/1.0 leave it open.
CONNECTIONS = [
    ([], True, False),
    (["close"], False, False),
    (["keep-alive"], True, True),
    (["TE, close"], False, False),
    (["close, TE"], False, False),
    (["Upgrade, close"], False, False),
    (["keep-alive, close"], False, False),
    (["close,keep-alive"], False, False),
    (["TE", "close"], False, False),
    (["keep-alive", "TE", "ClOsE"], False, False),
    (["TE ,\t Close  ,,"], False, False),
    (["TE, Keep-Alive"], True, True),
    (["Upgrade", "keep-alive"], True, True),
    (["closed, x-close"], True, False),
    (["", "TE"], True, False),
]


@pytest.mark.parametrize(("options", "in_1_1", "in_1_0"), CONNECTIONS)
@pytest.mark.parametrize("line", ["POST / HTTP/1.1", "GET / HTTP/1.1", "GET / HTTP/1.0"])
def test_any_close_among_the_options_closes_the_connection(line, options, in_1_1, in_1_0):
    """Whoever read the head; an older client has to ask for an open one, among whatever else (RFC 9112, 9.3, 9.6)."""
    fields = [f"Connection: {option}" for option in options]
    head = "".join(f"{one}\r\n" for one in [line, "Host: a", *fields, "Content-Length: 0", ""]).encode()
    with opened() as (conn, _):
        request = begin(conn, head, b"")
        assert isinstance(request, PlainRequest) is (line.startswith("POST") and len(options) < 2)
        assert request.should_close() is not (in_1_0 if line.endswith("1.0") else in_1_1)


def test_a_tunnel_and_a_request_that_must_be_the_last_close_the_connection():
    """As Gunicorn has it, whatever the client says."""
    with opened() as (conn, _):
        request = begin(conn, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: keep-alive\r\n\r\n", b"")
        assert request.should_close()
    with opened() as (conn, _):
        request = begin(conn, head_of([]))
        request.force_close()
        assert request.should_close()


@pytest.mark.parametrize(("server", "mounted"), [("unix:/run/a", ""), (SERVER, "/v1")])
def test_a_socket_without_an_address_and_a_mount_are_gunicorns(monkeypatch, server, mounted):
    """It says what the server's name is, and which part of the path is the application's."""
    monkeypatch.setenv("SCRIPT_NAME", mounted)
    head = head_of([])
    with opened(PEER, server) as (conn, _):
        ours = environ_of(begin(conn, head), conn, template(CONFIG))
    environ = wsgi.create(by_gunicorn(head, PEER)[0], None, PEER, server, CONFIG)[1]
    names = ("SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")
    assert [ours[name] for name in names] == [environ[name] for name in names]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_what_gunicorn_takes_it_for(target):
    """Path and query, with the slashes that the client sent."""
    head = head_of([], target)
    _, environ = by_gunicorn(head, PEER)
    with opened() as (conn, _):
        ours = environ_of(begin(conn, head), conn, template(CONFIG))
    for name in ("PATH_INFO", "QUERY_STRING", "RAW_URI", "SCRIPT_NAME"):
        assert ours[name] == environ[name]


def test_the_peer_says_nothing_of_the_scheme():
    """Whatever it names in however many fields, the request is served; the application reads one of them."""
    for name, value in itertools.product(
        ("Forwarded", "X-Forwarded-Protocol", "X-Forwarded-Ssl"), ("https", "1", "off")
    ):
        head = head_of(["X-Forwarded-Proto: https", f"{name}: {value}"])
        for sent in (head, head.replace(b"POST", b"PUT")):
            with opened(PROXY) as (conn, _):
                assert begin(conn, sent).scheme == "http"


def test_a_request_has_what_gunicorns_has():
    """Whatever Gunicorn reads of a request, but for the limits of its own parser."""
    theirs, _ = by_gunicorn(head_of([]), PEER)
    limits = {name for name in vars(theirs) if "limit" in name or name in ("max_buffer_headers", "_use_fast")}
    with opened() as (conn, _):
        assert vars(theirs).keys() - limits - {"unreader", "req_number"} <= vars(begin(conn, head_of([]))).keys()


@pytest.mark.parametrize(
    "head",
    [
        head_of(["X_Forwarded_For: 1.1.1.1"]),
        head_of([], "/a%20b"),
        head_of([]).replace(b"HTTP/1.1", b"HTTP/1.0"),
        head_of([]).replace(b"POST", b"PUT"),
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["underscore", "escape", "1.0", "PUT", "no length", "chunked"],
)
def test_what_leaves_a_doubt_is_for_gunicorn(head):
    """Its own parser reads the request, head and all."""
    body = b"2\r\n{}\r\n0\r\n\r\n" if b"chunked" in head else b"" if b"Length" not in head else BODY
    with opened() as (conn, _):
        request = begin(conn, head, body)
        assert type(request) is ParsedRequest
        assert request.body.read() == (b"{}" if b"chunked" in head else body)


def test_a_body_that_was_not_kept_is_for_gunicorn():
    """For want of room: the hooks refuse the request from its head."""
    head, framing = head_of([]), Framing()
    framing.feed(head + BODY)
    with opened() as (conn, _):
        conn.sock.begin_request(framing, None, body_refused=True)
        conn.init()
        assert type(next(conn.parser)) is ParsedRequest


def test_requests_of_both_kinds_follow_each_other_on_a_connection():
    """Nothing of one is left for the next, though its body was not read."""
    plain, other = head_of([]), head_of([]).replace(b"POST", b"PUT")
    with opened() as (conn, _):
        for head in (plain, other, plain, plain, other):
            request = begin(conn, head)
            assert isinstance(request, PlainRequest) == (head is plain)
            assert conn.parser.finish_body(deadline=1e9)
            conn.sock.end_request()


def test_a_body_reads_as_a_file_does():
    """In pieces, by lines, and into a buffer; nothing behind its end, and nothing once the request has ended."""
    with opened() as (conn, _):
        body = begin(conn, head_of([])).body
        assert (body.read(3), body.readline(), list(body)) == (BODY[:3], BODY[3:17], [b"{}\n"])
        assert (body.read(), body.read(5), body.readinto(bytearray(4))) == (b"", b"", 0)
        conn.sock.end_request()
        assert body.read() == b""


class Sends:
    """A client's socket that keeps each write apart."""

    def __init__(self):
        self.writes = []

    def sendall(self, data):
        self.writes.append(bytes(data))


def served(parts, headers=(("Content-Type", "text/event-stream"),), status="200 OK", last=False):
    """Return the writes of a response, and whether its connection is kept."""
    with opened() as (conn, _):
        request = begin(conn, head_of([]))
        real, conn.sock = conn.sock, Sends()

        def application(environ, start_response):
            start_response(status, list(headers))
            return parts

        try:
            kept = serve(application, request, conn, template(CONFIG), last)
        finally:
            sends, conn.sock = conn.sock, real
        return sends.writes, kept


def test_the_head_leaves_with_the_first_part():
    """In one write, framed as the others; an empty part sends nothing, or the head alone."""
    (first, second, end), kept = served([b"data: 1\n\n", b"", b"data: 2\n\n"])
    head, _, part = first.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert (part, second, end) == (b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n", b"0\r\n\r\n")
    assert kept
    assert served([b"", b"data: 1\n\n"])[0][0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("parts", "body"), [([b"{}"], b"{}"), ([b"{", b"}"], b"{}"), ([], b"")])
def test_a_body_of_known_length_is_not_chunked(parts, body):
    """Whatever its parts; a response without any has its head all the same."""
    writes, kept = served(parts, [("Content-Length", str(len(body)))])
    assert b"".join(writes).endswith(b"\r\n\r\n" + body)
    assert len(writes) == max(1, len(parts))
    assert kept


def test_the_last_request_of_a_worker_closes_its_connection():
    """And says so."""
    writes, kept = served([b"{}"], [("Content-Length", "2")], last=True)
    assert b"Connection: close" in writes[0]
    assert not kept


def test_an_error_ends_a_response_that_has_begun(caplog, monkeypatch):
    """No second head follows the first; one that had not begun is left to be answered."""
    closed, said = [], "what a client sent"
    monkeypatch.setattr("gunicorn.util.close_graceful", closed.append)

    def broken(*parts):
        yield from parts
        raise ValueError(said)

    with pytest.raises(StopIteration):
        served(broken(b"data: 1\n\n"))
    assert len(closed) == 1
    assert "ValueError" in caplog.text
    assert said not in caplog.text
    with pytest.raises(ValueError, match="what a client"):
        served(broken())
    assert len(closed) == 1


def test_the_parser_is_a_connections_own():
    """Made by the thread that serves its first request."""
    with opened() as (conn, _):
        begin(conn, head_of([]))
        first = conn.parser
        conn.sock.end_request()
        begin(conn, head_of([]))
        assert isinstance(first, Parser)
        assert conn.parser is first
