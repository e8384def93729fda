"""The bounded socket of a client, over a pair of real sockets."""

import socket

import pytest

from serving.connection import MIN_BYTES_PER_SECOND, ClientSocket
from tests.fakes import Clock


class PairedSockets:
    """Both ends of one connection: `server` is bounded, `client` is not."""

    def __init__(self, limit, clock=None):
        ours, self.client = socket.socketpair()
        self.server = ClientSocket(ours, limit, clock) if clock else ClientSocket(ours, limit)
        self.server.setblocking(True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.close()
        self.client.close()


def test_what_arrives_is_received():
    """Data from a fast client is returned as it was sent."""
    with PairedSockets(5.0) as pair:
        pair.client.sendall(b"hello")
        assert pair.server.recv(3) == b"hel"
        assert pair.server.recv(100, socket.MSG_PEEK) == b"lo"
        assert pair.server.recv(100) == b"lo"
        pair.client.close()
        assert pair.server.recv(100) == b""


def test_request_without_data_is_reset():
    """After `limit` seconds without a byte the connection counts as reset."""
    with PairedSockets(0.05) as pair, pytest.raises(ConnectionResetError):
        pair.server.recv(100)


def test_slow_request_is_reset_although_each_wait_is_short():
    """The waits of one request are added up."""

    class Dripping(Clock):
        def __call__(self):
            self.advance(0.5)
            return self.now

    with PairedSockets(2.0, Dripping()) as pair:
        pair.client.sendall(b"x" * 10)
        for _ in range(4):
            assert pair.server.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):
            [pair.server.recv(1, 0) for _ in range(7)]


def test_large_request_gets_time_for_its_bytes():
    """A body may take as long as its bytes need at the minimum rate; each request is counted separately."""
    clock = Clock()
    with PairedSockets(1.0, clock) as pair:
        pair.client.sendall(b"x" * MIN_BYTES_PER_SECOND)
        pair.server.recv(MIN_BYTES_PER_SECOND)
        pair.server._waited = 1.9
        pair.client.sendall(b"y")
        assert pair.server.recv(1) == b"y"
        pair.server._waited = 2.5
        with pytest.raises(ConnectionResetError):
            pair.server.recv(1)
        pair.server.begin_request()
        pair.client.sendall(b"z")
        assert pair.server.recv(1) == b"z"


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
