"""Sends that do not wait."""

import os
import socket

import pytest

from engine.send import send_now


@pytest.mark.linux
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
