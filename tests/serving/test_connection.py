"""The bounded socket of a client, over a pair of real sockets."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from engine.quick_calls import new_buffer
from serving.connection import ClientSocket
from serving.framing import Framing
from serving.slow_readers import SlowReaders


class PairedSockets:
    """Both ends of one connection: `server` is bounded, `client` is not."""

    def __init__(self, limit, *waiting):
        ours, self.client = socket.socketpair()
        self.server = ClientSocket(ours, limit, *waiting)
        self.server.setblocking(True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.end_request()
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
        assert pair.server.receive_now(new_buffer(100)) == b"next"


def test_non_blocking_socket_stays_non_blocking():
    """The non-blocking mode that the poller needs is kept."""
    with PairedSockets(5.0) as pair:
        pair.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.server.recv(1)
        assert pair.server.gettimeout() == 0.0


def test_only_so_many_threads_wait_for_clients_that_do_not_read():
    """Who is one too many counts as disconnected soon; what fits without waiting is sent, and a place is free again."""
    waiting = SlowReaders(1)
    with PairedSockets(5.0, waiting) as pair, waiting.waiting("1.1.1.1", lambda: None):
        pair.server.sendall(b"short")
        with pytest.raises(BrokenPipeError, match="too many"):
            pair.server.sendall(b"x" * 10_000_000)
    with PairedSockets(0.05, waiting) as pair, pytest.raises(BrokenPipeError, match="does not read"):
        pair.server.sendall(b"x" * 10_000_000)
    assert len(waiting) == 0


def test_response_that_is_not_read_is_a_broken_pipe(tmp_path):
    """After `limit` seconds of a full buffer the client counts as disconnected, for bytes and for files."""
    (tmp_path / "file").write_bytes(b"x" * 10_000_000)
    with PairedSockets(0.05) as pair, pytest.raises(BrokenPipeError):
        pair.server.sendall(b"x" * 10_000_000)
    with PairedSockets(0.05) as pair, (tmp_path / "file").open("rb") as file, pytest.raises(BrokenPipeError):
        pair.server.sendfile(file)


@pytest.mark.parametrize("never_waits", [True, False])
def test_an_answer_that_never_waits_ends_the_connection_at_once(never_waits):
    """A client without room for it has earlier answers to read; no thread waits for that."""
    waiting = SlowReaders(1)
    with PairedSockets(0.05, waiting) as pair:
        begun(pair, HEAD)
        pair.server.never_waits = never_waits
        with pytest.raises(BrokenPipeError, match="earlier" if never_waits else "does not read"):
            pair.server.sendall(b"x" * 10_000_000)
        with contextlib.closing(Framing()) as following:
            pair.server.end_request()
            pair.server.begin_request(following, None, body_refused=False)
        assert not pair.server.never_waits  # that was for one request


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def received(client, number):
    """Return the next `number` bytes that the client gets."""
    data = b""
    while len(data) < number and (more := client.recv(number - len(data))):
        data += more
    return data


def test_a_request_has_arrived_when_it_is_whole():
    """Its deadlines count from then on, however long it waits for a thread; those of the next one anew."""
    with PairedSockets(5.0) as pair:
        moments = [time.monotonic()]
        for _ in range(2):
            framing = Framing()
            framing.feed(b"GET / HTTP/1.1\r\n\r\n")
            pair.server.begin_request(framing, None, body_refused=False)
            moments += [pair.server.arrived, time.monotonic()]
            pair.server.end_request()
        assert moments == sorted(moments)


def begun(pair, head):
    """Begin the response to a request of HTTP/1.1, of which the client has read the head."""
    framing = Framing()
    framing.feed(b"GET / HTTP/1.1\r\n\r\n")
    pair.server.begin_request(framing, None, body_refused=False)
    pair.server.sendall(head)
    assert received(pair.client, len(head)) == head


@pytest.mark.parametrize("chunked", [True, False])
def test_a_part_of_a_stream_is_framed_as_its_head_says(chunked):
    """In chunks, or up to the connection's end."""
    with PairedSockets(5.0) as pair:
        begun(pair, HEAD if chunked else HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""))
        assert pair.server.send_part(b"data: a\n\n")
        sent = b"9\r\ndata: a\n\n\r\n" if chunked else b"data: a\n\n"
        assert received(pair.client, len(sent)) == sent


def test_what_a_client_does_not_take_at_once_is_kept_for_later():
    """A part is sent without waiting; nothing comes between its beginning and its rest, probes neither."""
    with PairedSockets(30.0) as pair:
        begun(pair, HEAD)
        part = b"x" * 4_000_000
        assert not pair.server.send_part(part)
        assert pair.server.probe()
        client = threading.Thread(target=lambda: got.append(received(pair.client, len(expected))))
        got, expected = [], b"3D0900\r\n" + part + b"\r\n0\r\n\r\n"
        client.start()
        pair.server.send_rest()
        pair.server.sendall(b"0\r\n\r\n")
        client.join(60)
        assert got == [expected]


def test_the_rest_for_a_client_that_never_reads_is_a_broken_pipe():
    """As for any other write."""
    with PairedSockets(0.05) as pair:
        begun(pair, HEAD)
        assert not pair.server.send_part(b"x" * 10_000_000)
        with pytest.raises(BrokenPipeError):
            pair.server.send_rest()


@pytest.fixture
def asked():
    """A connection whose client has sent its request and waits: the server's end, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server = ClientSocket(listener.accept()[0], 5.0)
    with contextlib.closing(Framing()) as request, client, server:
        server.setblocking(True)
        request.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.begin_request(request, None, body_refused=False)
        yield server, client
        server.end_request()


def test_a_client_that_waits_has_not_left(asked):
    """Neither with its own end closed, as `nc -N` waits."""
    server, client = asked
    assert not server.has_left
    client.shutdown(socket.SHUT_WR)
    assert not any(server.has_left for _ in range(5))
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n" * 5


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_has_closed_has_left(asked, reset):
    """Soon: after the answer to a probe, where its end is the last that was heard of it."""
    server, client = asked
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    deadline = time.monotonic() + 60
    while not server.has_left:
        assert time.monotonic() < deadline
        time.sleep(0.01)
