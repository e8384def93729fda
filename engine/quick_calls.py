"""System calls that do not wait, and do not give the interpreter lock to another thread meanwhile.

Python releases the lock around each of them, although they are over in microseconds. Taking it back takes up to the
switch interval for each thread that wants it, so a thread with many small calls would hardly get on under load.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from typing import Protocol

_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_ADDRESS_BYTES = 128  # of a sockaddr_storage
READ_BYTES = 4096

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


def checked(result: int) -> int:
    """Return what a function of `libc` returned. Raises the OSError that it reports by a negative number."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if os.name == "posix":
    libc = ctypes.PyDLL(None, use_errno=True)  # of which each call keeps the lock
    libc.send.restype = libc.recv.restype = ctypes.c_ssize_t
    libc.send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    libc.recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    libc.open.argtypes = (ctypes.c_char_p, ctypes.c_int)
    libc.read.restype = ctypes.c_ssize_t
    libc.read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)

    def close_now(descriptor: int) -> None:
        """Close a descriptor. Raises OSError."""
        checked(libc.close(descriptor))

    def read_now(path: str) -> bytes:
        """Return the first `READ_BYTES` bytes of a file that no disk holds, as below /proc. Raises OSError."""
        descriptor = checked(libc.open(path.encode(), os.O_RDONLY | os.O_CLOEXEC))
        try:
            buffer = new_buffer(READ_BYTES)
            return ctypes.string_at(buffer, checked(libc.read(descriptor, buffer, READ_BYTES)))
        finally:
            close_now(descriptor)

    def send_now(descriptor: int, data: bytes) -> int:
        """Send what fits to a socket, whatever its mode; return how many bytes. Raises OSError."""
        return checked(libc.send(descriptor, data, len(data), _FLAGS))

    def end_sending_now(descriptor: int) -> None:
        """Shut down the sending half of a socket. Raises OSError."""
        checked(libc.shutdown(descriptor, socket.SHUT_WR))

    def receive_now(descriptor: int, buffer: Buffer) -> bytes:
        """Return what has arrived at a socket, at most as much as fits in `buffer`. Raises OSError."""
        received = checked(libc.recv(descriptor, buffer, len(buffer), _FLAGS))
        return ctypes.string_at(buffer, received)
else:  # pragma: no cover

    def close_now(descriptor: int) -> None:
        """Close a descriptor. Raises OSError."""
        os.close(descriptor)

    def read_now(path: str) -> bytes:
        """Return the first `READ_BYTES` bytes of a file. Raises OSError."""
        with open(path, "rb") as file:
            return file.read(READ_BYTES)

    def send_now(descriptor: int, data: bytes) -> int:
        """Send what fits to a non-blocking socket; return how many bytes. Raises OSError."""
        return os.write(descriptor, data)

    def end_sending_now(descriptor: int) -> None:
        """Shut down the sending half of a socket. Raises OSError."""
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.shutdown(socket.SHUT_WR)

    def receive_now(descriptor: int, buffer: Buffer) -> bytes:
        """Return what has arrived at a non-blocking socket, at most as much as fits in `buffer`. Raises OSError."""
        return os.read(descriptor, len(buffer))


if sys.platform == "linux":
    libc.accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_int)

    def accept_now(listener: Listening) -> tuple[socket.socket, object]:
        """Return a connection, non-blocking, and its address, as `socket.accept` does. Raises OSError."""
        address, length = ctypes.create_string_buffer(_ADDRESS_BYTES), ctypes.c_uint(_ADDRESS_BYTES)
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        descriptor = checked(libc.accept4(listener.fileno(), address, ctypes.byref(length), flags))
        kind = listener.type | socket.SOCK_NONBLOCK
        accepted = socket.socket(listener.family, kind, listener.proto, fileno=descriptor)
        return accepted, _address(listener.family, address.raw)

    def _address(family: int, raw: bytes) -> object:
        """Return a sockaddr as `socket.accept` does. The socket itself has lost that of a client that has left."""
        port = int.from_bytes(raw[2:4], "big")
        if family == socket.AF_INET:
            return socket.inet_ntoa(raw[4:8]), port
        if family != socket.AF_INET6:
            return ""  # of a socket in the file system, whose clients have no name
        host, scope = socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[24:28], sys.byteorder)
        if scope:
            with contextlib.suppress(OSError):  # its interface has gone
                host = f"{host}%{socket.if_indextoname(scope)}"
        return host, port, int.from_bytes(raw[4:8], "big"), scope
else:  # pragma: no cover

    def accept_now(listener: Listening) -> tuple[socket.socket, object]:
        """Return a connection, non-blocking, and its address. Raises OSError."""
        accepted, address = listener.accept()
        accepted.setblocking(False)
        return accepted, address
