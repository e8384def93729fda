"""Disconnects on real sockets are detected, in every form, and nothing else is."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from edge.disconnect import ClientWatch, EpollWatcher, PollingWatcher
from serving.connection import INTERIM, ClientSocket
from serving.framing import Framing
from tests.fakes import PATIENCE
from tests.timing import NewThreads, once_within


def connection():
    """Return both ends of a real TCP connection: the client's and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return client, server


@pytest.fixture
def ends():
    """Both ends, closed after the test."""
    pair = connection()
    yield pair
    for end in pair:
        end.close()


@pytest.fixture(params=[EpollWatcher, PollingWatcher])
def watch(request):
    """A watch of either kind."""
    return ClientWatch(request.param)


@pytest.fixture
def gone():
    """An event that the watch sets."""
    return threading.Event()


@contextlib.contextmanager
def watched(watch, environ, gone):
    """Watch the client of a request until the block ends."""
    release = watch.watch(environ, gone)
    try:
        yield
    finally:
        release()


def serve(server, version="1.1"):
    """Return the server's end as Gunicorn has it while a request of this version is served."""
    served, request = ClientSocket(server, 30.0), Framing()
    request.feed(f"POST /work HTTP/{version}\r\n\r\n".encode())
    served.begin_request(request, None, body_refused=False)
    served.setblocking(True)
    return served


def exactly(client, size):
    """Return so many bytes of what the client receives."""
    received = b""
    while len(received) < size and (more := client.recv(size - len(received))):
        received += more
    return received


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
LINES = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n\r\n"
OLD_STREAM = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def close(client):
    client.close()


def half_close(client):
    client.shutdown(socket.SHUT_WR)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("leave", [close, half_close, reset])
@pytest.mark.parametrize("server_name", ["gunicorn.socket", "werkzeug.socket"])
def test_a_client_that_leaves_is_noticed_within_100_ms(watch, leave, server_name):
    """Closed, closed for writing or reset: the callback runs within 100 ms."""

    def attempt(_):
        (client, server), gone = connection(), threading.Event()
        with watched(watch, {server_name: server}, gone.set):
            began = time.monotonic()
            leave(client)
            assert gone.wait(PATIENCE)
            took = time.monotonic() - began
        client.close()
        server.close()
        return took

    once_within(0.1, attempt)


def test_leaving_before_the_watch_began_is_noticed(watch, ends, gone):
    """A client may disconnect while its prompt is still being tokenized."""
    client, server = ends
    client.close()
    with watched(watch, {"gunicorn.socket": server}, gone.set):
        assert gone.wait(PATIENCE)


def test_unread_bytes_do_not_hide_a_leaving_client(ends, gone):
    """The kernel reports the close even if the client has sent its next request ahead."""
    client, server = ends
    client.sendall(b"GET /next HTTP/1.1\r\n\r\n")
    with watched(ClientWatch(EpollWatcher), {"gunicorn.socket": server}, gone.set):
        assert not gone.wait(0.1)
        client.close()
        assert gone.wait(PATIENCE)
    assert server.recv(3) == b"GET", "watching must not eat what the client sent"


def test_a_client_that_stays_is_left_alone(watch, ends, gone):
    """Bytes sent ahead are not a disconnect, and each function is called once."""
    client, server = ends
    other_client, other_server = connection()
    other_gone = threading.Event()
    with watched(watch, {"gunicorn.socket": server}, gone.set):
        client.sendall(b"more")
        with watched(watch, {"gunicorn.socket": other_server}, other_gone.set):
            other_client.close()
            assert other_gone.wait(PATIENCE)
        assert not gone.is_set()
    other_server.close()


def test_nothing_is_called_after_the_watch(watch, ends, gone):
    """A disconnect after the response aborts nothing, and a watch may be ended twice."""
    client, server = ends
    release = watch.watch({"gunicorn.socket": server}, gone.set)
    release()
    release()
    client.close()
    later_client, later_server = connection()
    later_gone = threading.Event()
    later_client.close()
    with watched(watch, {"gunicorn.socket": later_server}, later_gone.set):
        assert later_gone.wait(PATIENCE), "by now the first one would have been called too"
    assert not gone.is_set()
    later_server.close()


def test_a_reused_descriptor_is_another_client(watch, gone):
    """The next connection reuses the descriptor of a closed socket and must not be taken for the closed one."""
    for _ in range(50):
        client, server = connection()
        release = watch.watch({"gunicorn.socket": server}, threading.Event().set)
        client.close()
        release()
        server.close()
        next_client, next_server = connection()
        with watched(watch, {"gunicorn.socket": next_server}, gone.set):
            next_client.sendall(b"still here")
            assert next_server.recv(20) == b"still here"
        next_client.close()
        next_server.close()
    assert not gone.is_set()


def test_streams_that_share_a_socket_are_all_notified(watch, ends):
    """All streams on one connection are notified of its end, except those that have ended their watch."""
    client, server = ends
    calls = [threading.Event() for _ in range(3)]
    releases = [watch.watch({"gunicorn.socket": server}, call.set) for call in calls]
    releases[0]()
    client.close()
    assert all(call.wait(PATIENCE) for call in calls[1:])
    assert not calls[0].is_set()


def test_a_call_that_fails_does_not_end_the_watching(watch, ends, gone, caplog):
    """A function that raises does not end the detection of later disconnects."""
    client, server = ends
    failed = threading.Event()

    def fail():
        failed.set()
        raise RuntimeError

    with watched(watch, {"gunicorn.socket": server}, fail):
        client.close()
        assert failed.wait(PATIENCE)
    next_client, next_server = connection()
    with watched(watch, {"gunicorn.socket": next_server}, gone.set):
        next_client.close()
        assert gone.wait(PATIENCE)
    next_server.close()
    assert "could not be stopped" in caplog.text


def test_a_server_without_sockets_is_served_all_the_same(ends, gone):
    """Without a socket, or with a closed one, nothing is watched and no thread starts."""
    _, server = ends
    server.close()
    threads = NewThreads()
    for environ in ({}, {"gunicorn.socket": server}):
        with watched(ClientWatch(), environ, gone.set):
            pass
    assert len(threads) == 0


def test_polling_ends_the_watch_of_a_socket_closed_on_our_side(ends, gone):
    """A socket closed on our side has no client."""
    _, server = ends
    watch = ClientWatch(PollingWatcher)
    with watched(watch, {"gunicorn.socket": server}, gone.set):
        server.close()
        assert gone.wait(PATIENCE)


@pytest.mark.parametrize(
    ("version", "sent", "filler"),
    [
        ("1.1", b"", INTERIM),
        ("1.1", STREAM, b"E\r\n: keep-alive\n\n\r\n"),
        ("1.1", LINES, b"1\r\n\n\r\n"),
        ("1.0", OLD_STREAM, b": keep-alive\n\n"),
    ],
)
def test_a_half_closed_client_is_waited_for_until_it_leaves(watch, ends, gone, version, sent, filler):
    """One that has sent its last byte receives what it passes over, again and again; once it closes, it is gone."""
    client, server = ends
    client.settimeout(PATIENCE)
    served = serve(server, version)
    if sent:
        served.sendall(sent)
    with watched(watch, {"gunicorn.socket": served}, gone.set):
        client.shutdown(socket.SHUT_WR)
        expected = sent + 3 * filler
        assert exactly(client, len(expected)) == expected
        assert not gone.is_set()
        client.close()
        assert gone.wait(PATIENCE)
    served.end_request()
    served.close()


@pytest.mark.parametrize("sent", [b"", STREAM])
def test_a_probed_answer_arrives_whole(watch, ends, gone, sent):
    """What is probed between the writes of an answer changes none of its bytes."""
    client, server = ends
    client.settimeout(PATIENCE)
    served = serve(server)
    with watched(watch, {"gunicorn.socket": served}, gone.set):
        client.shutdown(socket.SHUT_WR)
        if not sent:
            assert exactly(client, len(INTERIM)) == INTERIM
        served.sendall(STREAM)
        for _ in range(50):
            served.sendall(b"5\r\nevent\r\n")
        served.sendall(b"0\r\n\r\n")
        assert served.probe()
    served.end_request()
    served.close()
    received = b"".join(iter(lambda: client.recv(65536), b""))
    received = received.replace(INTERIM, b"").replace(b"E\r\n: keep-alive\n\n\r\n", b"")
    assert received == STREAM + 50 * b"5\r\nevent\r\n" + b"0\r\n\r\n"
    assert not gone.is_set()


def test_a_client_of_http_1_0_that_sent_its_last_byte_counts_as_left(watch, ends, gone):
    """Before the head of its answer nothing may be sent to it, so it cannot be told from one that left."""
    client, server = ends
    served = serve(server, "1.0")
    with watched(watch, {"gunicorn.socket": served}, gone.set):
        client.shutdown(socket.SHUT_WR)
        assert gone.wait(PATIENCE)
        with pytest.raises(BlockingIOError):
            client.recv(1, socket.MSG_DONTWAIT)
    served.end_request()
    served.close()


@pytest.mark.parametrize("leave", [close, reset])
def test_a_served_client_that_leaves_is_noticed_within_100_ms(watch, leave):
    """The first probe goes out with the client's last byte."""

    def attempt(_):
        (client, server), gone = connection(), threading.Event()
        served = serve(server)
        with watched(watch, {"gunicorn.socket": served}, gone.set):
            began = time.monotonic()
            leave(client)
            assert gone.wait(PATIENCE)
            took = time.monotonic() - began
        served.end_request()
        served.close()
        return took

    once_within(0.1, attempt)


def test_a_relay_that_passes_the_half_close_on_hides_nobody(watch, ends, gone):
    """Behind it a client that left looks half-closed until the relay has written to it twice."""
    (client, relay_front), (relay_back, server) = connection(), ends
    served = serve(server)
    relaying = threading.Thread(target=relay, args=(relay_back, relay_front))
    relaying.start()
    with watched(watch, {"gunicorn.socket": served}, gone.set):
        client.close()
        assert relay_front.recv(1) == b""
        relay_back.shutdown(socket.SHUT_WR)
        assert gone.wait(PATIENCE)
    relaying.join(PATIENCE)
    relay_front.close()
    served.end_request()
    served.close()


def relay(source, target):
    """Pass bytes on until the target has left."""
    with source, contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
