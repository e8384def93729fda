"""Closing a listening socket and listening on it again."""

import errno
import select
import socket

import pytest

from serving.listener import end_listening, listen_again


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_established_connections_are_accepted_and_later_ones_refused(listener):
    """A connection in the backlog is served; one begun while the backlog is accepted is refused, not reset."""
    address, served, late = listener.getsockname(), [], socket.socket()
    late.setblocking(False)
    waiting = socket.create_connection(address)

    def accept_all():
        assert late.connect_ex(address) != 0
        served.append(listener.accept()[0])
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()

    end_listening(listener, accept_all)
    served[0].sendall(b"answer")
    assert waiting.recv(100) == b"answer"
    select.select([], [late], [], 10)
    assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    for connection in (waiting, late, *served):
        connection.close()


def test_socket_listens_again_for_the_next_worker(listener):
    """A socket that one worker has shut down can be used by the next."""
    end_listening(listener, lambda: None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())
    listen_again(listener, 5)
    listen_again(listener, 5)
    with socket.create_connection(listener.getsockname(), timeout=60), listener.accept()[0] as accepted:
        assert accepted.fileno() > 0


def test_socket_is_closed_where_filters_are_forbidden():
    """Without permission for the filter the backlog is still accepted and the socket shut down."""

    class Forbidding:
        ended = False

        def setsockopt(self, *_):
            raise PermissionError

        def shutdown(self, how):
            self.ended = True

    accepted, listener = [], Forbidding()
    end_listening(listener, lambda: accepted.append("all"))
    assert (accepted, listener.ended) == (["all"], True)
