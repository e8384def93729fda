"""Sends without waiting, and without giving the interpreter lock to another thread meanwhile.

`socket.send` releases the lock, although a send that does not wait is over in microseconds. Taking it back takes up to
the switch interval for each thread that wants it, so a thread with many small sends would hardly get on under load.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable

_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


def _send_holding_lock(descriptor: int, data: bytes) -> int:
    sent: int = _libc_send(descriptor, data, len(data), _FLAGS)
    if sent < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return sent


try:
    _libc_send = ctypes.PyDLL(None, use_errno=True).send
    _libc_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    _libc_send.restype = ctypes.c_ssize_t
    send_now: Callable[[int, bytes], int] = _send_holding_lock
except (AttributeError, OSError, TypeError):  # pragma: no cover - Windows
    send_now = os.write
