"""System calls that do not wait, and keep the interpreter lock."""

import contextlib
import errno
import os
import socket
import struct
import sys
import threading

import pytest

from engine.quick_calls import (
    READ_BYTES,
    _address,
    accept_now,
    end_sending_now,
    new_buffer,
    read_now,
    receive_now,
    send_now,
)


def test_the_beginning_of_a_file_is_read(tmp_path):
    """Also of an empty one; one that cannot be read is an error, and no descriptor stays open."""
    before = descriptors()
    for content in (b"", b"12 13\n", b"x" * (READ_BYTES + 1)):
        (tmp_path / "file").write_bytes(content)
        assert read_now(str(tmp_path / "file")) == content[:READ_BYTES]
    for path, trouble in ((tmp_path / "none", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(OSError, match=os.strerror(trouble)):
            read_now(str(path))
    assert descriptors() == before


def descriptors():
    """Return how many descriptors this process has open."""
    return sum(1 for number in range(1024) if is_open(number))


def is_open(number):
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False


@pytest.mark.linux
def test_a_client_is_told_that_no_more_follows():
    """It may still send; a socket that has gone is an error."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end_sending_now(ours.fileno())
        assert theirs.recv(1) == b""
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        end_sending_now(-1)


@pytest.mark.parametrize("send", [send_now, os.write], ids=["send_now", "the fallback"])
def test_a_send_takes_what_fits_and_never_waits(send):
    """Bytes of any value; a full buffer and a closed peer are the errors that a socket raises."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        data = bytes(range(256))
        assert send(ours.fileno(), data) == 256
        assert theirs.recv(1000) == data
        assert 0 < send(ours.fileno(), b"x" * 10_000_000) < 10_000_000
        with pytest.raises(BlockingIOError):
            send(ours.fileno(), b"x")
        theirs.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send(ours.fileno(), b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        send(-1, b"x")


@pytest.mark.linux
def test_a_send_does_not_wait_on_a_socket_that_would():
    """Whatever the socket's own mode is."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert 0 < send_now(ours.fileno(), b"x" * 10_000_000) < 10_000_000
        with pytest.raises(BlockingIOError):
            send_now(ours.fileno(), b"x" * 10_000_000)


@pytest.mark.linux
def test_what_has_arrived_is_received_and_never_waited_for():
    """Up to the size of the buffer; the end of a stream is empty, and nothing yet is an error."""
    ours, theirs = socket.socketpair()
    buffer = new_buffer(100)
    with ours:
        with pytest.raises(BlockingIOError):
            receive_now(ours.fileno(), buffer)
        theirs.sendall(bytes(range(150)))
        assert receive_now(ours.fileno(), buffer) == bytes(range(100))
        assert receive_now(ours.fileno(), buffer) == bytes(range(100, 150))
        theirs.close()
        assert receive_now(ours.fileno(), buffer) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        receive_now(-1, buffer)


@pytest.mark.linux
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_UNIX, None)]
)
def test_a_connection_is_accepted_as_the_socket_does_it(family, address, tmp_path):
    """With its address, and without waiting for one: it is non-blocking, and not inherited."""
    with socket.socket(family) as listener, socket.socket(family) as client, socket.socket(family) as other:
        listener.bind((address, 0) if address else str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            accept_now(listener)
        client.connect(listener.getsockname())
        accepted, found = accept_now(listener)
        other.connect(listener.getsockname())
        usual, usual_address = listener.accept()
        with accepted, usual:
            assert accepted.getpeername() == found == client.getsockname()
            assert usual_address == other.getsockname()
            assert (accepted.family, accepted.type, accepted.proto) == (usual.family, usual.type, usual.proto)
            assert (accepted.gettimeout(), accepted.get_inheritable()) == (0.0, False)
            client.sendall(b"hi")
            assert accepted.recv(10) == b"hi"


@pytest.mark.linux
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_has_left_is_accepted_with_its_address(family, host, reset):
    """It is no error of the listening socket, which would end the worker; reading tells that it has left."""
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        address = client.getsockname()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))
        client.close()
        accepted, found = accept_now(listener)
        with accepted:
            assert found == address
            with pytest.raises(ConnectionResetError) if reset else contextlib.nullcontext():
                assert accepted.recv(1) == b""


@pytest.mark.linux
def test_an_address_of_one_link_names_its_interface():
    """As the socket module spells it, so that addresses of several links stay apart."""
    index, name = socket.if_nameindex()[0]
    raw = (
        struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 8085, 7) + socket.inet_pton(socket.AF_INET6, "fe80::1")
    )
    assert _address(socket.AF_INET6, raw + struct.pack("=I", index)) == (f"fe80::1%{name}", 8085, 7, index)
    assert _address(socket.AF_INET6, raw + struct.pack("=I", 2**31 - 1)) == ("fe80::1", 8085, 7, 2**31 - 1)


@pytest.mark.linux
def test_the_interpreter_lock_is_kept():
    """A thread that wants it has to wait until it is given up, which `os.write` does."""
    ours, theirs = socket.socketpair()
    bell, ran, interval = threading.Lock(), threading.Event(), sys.getswitchinterval()
    bell.acquire()

    def wait_and_run():
        bell.acquire()
        ran.set()

    thread = threading.Thread(target=wait_and_run, daemon=True)
    buffer = new_buffer(10)
    with ours, theirs:
        sys.setswitchinterval(1000)
        try:
            thread.start()
            bell.release()
            for _ in range(2000):
                send_now(ours.fileno(), b"x")
                receive_now(theirs.fileno(), buffer)
            kept = not ran.is_set()
            for _ in range(1_000_000):
                if ran.is_set():
                    break
                os.write(ours.fileno(), b"x")
                receive_now(theirs.fileno(), buffer)
        finally:
            sys.setswitchinterval(interval)
        thread.join(60)
    assert kept
    assert ran.is_set()
