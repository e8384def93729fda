"""The bounded socket of a client, over a pair of real sockets."""

import contextlib
import socket

import pytest

from serving.connection import ClientSocket
from serving.framing import Framing


class PairedSockets:
    """Both ends of one connection: `server` is bounded, `client` is not."""

    def __init__(self, limit):
        ours, self.client = socket.socketpair()
        self.server = ClientSocket(ours, limit)
        self.server.setblocking(True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.close()
        self.client.close()


def test_the_network_is_read_only_where_it_is_asked_for():
    """A request is read from what has arrived of it; peeking shows what lies in the socket."""
    with PairedSockets(5.0) as pair, contextlib.closing(Framing()) as request:
        request.feed(b"GET / HTTP/1.1\r\n\r\n")
        pair.server.begin_request(request, None, body_refused=False)
        pair.client.sendall(b"next")
        assert pair.server.recv(100, socket.MSG_PEEK) == b"next"
        assert pair.server.recv(5) == b"GET /"
        assert pair.server.recv(100) == b" HTTP/1.1\r\n\r\n"
        assert pair.server.recv(100) == b""
        pair.server.setblocking(False)
        assert pair.server.receive_now(100) == b"next"


def test_non_blocking_socket_stays_non_blocking():
    """The non-blocking mode that the poller needs is kept."""
    with PairedSockets(5.0) as pair:
        pair.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.server.recv(1)
        assert pair.server.gettimeout() == 0.0


def test_response_that_is_not_read_is_a_broken_pipe(tmp_path):
    """After `limit` seconds of a full buffer the client counts as disconnected, for bytes and for files."""
    (tmp_path / "file").write_bytes(b"x" * 10_000_000)
    with PairedSockets(0.05) as pair, pytest.raises(BrokenPipeError):
        pair.server.sendall(b"x" * 10_000_000)
    with PairedSockets(0.05) as pair, (tmp_path / "file").open("rb") as file, pytest.raises(BrokenPipeError):
        pair.server.sendfile(file)
