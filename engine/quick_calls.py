"""System calls that do not wait, and do not give the interpreter lock to another thread meanwhile.

Python releases the lock around each of them, although they are over in microseconds. Taking it back takes up to the
switch interval for each thread that wants it, so a thread with many small calls would hardly get on under load.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Protocol

LINUX = sys.platform == "linux"
_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_ADDRESS_BYTES = 128  # of a sockaddr_storage

Buffer = ctypes.Array[ctypes.c_char]


class Listening(Protocol):
    """What is used of a listening socket."""

    @property
    def family(self) -> int:
        """As of a socket; so are the other two."""

    @property
    def type(self) -> int: ...
    @property
    def proto(self) -> int: ...
    def accept(self) -> tuple[socket.socket, object]:
        """As socket.accept."""

    def fileno(self) -> int:
        """As socket.fileno."""


def new_buffer(size: int) -> Buffer:
    """Return memory for `receive_now`; `size` bytes. One thread at a time may use it."""
    return ctypes.create_string_buffer(size)


if LINUX:
    _libc = ctypes.PyDLL(None, use_errno=True)
    _libc.send.restype = _libc.recv.restype = ctypes.c_ssize_t
    _libc.send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    _libc.recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _libc.accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_int)

    def send_now(descriptor: int, data: bytes) -> int:
        """Send what fits to a socket, whatever its mode; return how many bytes. Raises OSError."""
        return _checked(_libc.send(descriptor, data, len(data), _FLAGS))

    def receive_now(descriptor: int, buffer: Buffer) -> bytes:
        """Return what has arrived at a socket, at most as much as fits in `buffer`. Raises OSError."""
        received = _checked(_libc.recv(descriptor, buffer, len(buffer), _FLAGS))
        return ctypes.string_at(buffer, received)

    def accept_now(listener: Listening) -> tuple[socket.socket, object]:
        """Return a connection, non-blocking, and its address, as `socket.accept` does. Raises OSError."""
        address = ctypes.create_string_buffer(_ADDRESS_BYTES)
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        length = ctypes.c_uint(_ADDRESS_BYTES)
        descriptor = _checked(_libc.accept4(listener.fileno(), address, ctypes.byref(length), flags))
        kind = listener.type | socket.SOCK_NONBLOCK
        accepted = socket.socket(listener.family, kind, listener.proto, fileno=descriptor)
        if listener.family == socket.AF_INET:
            return accepted, (socket.inet_ntoa(address.raw[4:8]), int.from_bytes(address.raw[2:4], "big"))
        return accepted, accepted.getpeername()

    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
else:  # pragma: no cover

    def send_now(descriptor: int, data: bytes) -> int:
        """Send what fits to a non-blocking socket; return how many bytes. Raises OSError."""
        return os.write(descriptor, data)

    def receive_now(descriptor: int, buffer: Buffer) -> bytes:
        """Return what has arrived at a non-blocking socket, at most as much as fits in `buffer`. Raises OSError."""
        return os.read(descriptor, len(buffer))

    def accept_now(listener: Listening) -> tuple[socket.socket, object]:
        """Return a connection, non-blocking, and its address. Raises OSError."""
        accepted, address = listener.accept()
        accepted.setblocking(False)
        return accepted, address
