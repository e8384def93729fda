"""Closing a listening socket without resetting connections that were already established.

Closing a listening socket resets the connections in its backlog, and one may arrive between the last accept and the
close. On Linux the socket therefore first drops incoming packets with a filter (socket(7), SO_ATTACH_FILTER), then the
backlog is accepted, then the socket is shut down. A client whose SYN was dropped retransmits it a second later and is
refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from typing import Protocol

from engine.quick_calls import Listening

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# One instruction of a classic Berkeley packet filter (BPF): keep 0 bytes of the packet.
DROP = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
PROGRAM = struct.pack("@HP", 1, ctypes.addressof(DROP))


class Listener(Listening, Protocol):
    """What is used of Gunicorn's listening socket."""

    def getsockname(self) -> object:
        """As socket.getsockname."""

    def getsockopt(self, level: int, option: int, /) -> int:
        """As socket.getsockopt."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """As socket.setsockopt."""

    def listen(self, backlog: int, /) -> None:
        """As socket.listen."""

    def shutdown(self, how: int, /) -> None:
        """As socket.shutdown."""


def end_listening(listener: Listener, accept_all: Callable[[], None]) -> None:
    """Drop new connections, accept those in the backlog, then have the kernel refuse further ones."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # without the filter a connection may still be reset
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, PROGRAM)
    accept_all()
    listener.shutdown(socket.SHUT_RDWR)


def listen_again(listener: Listener, backlog: int) -> None:
    """Listen again on a socket that an earlier process has shut down; do nothing if it is listening."""
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    with contextlib.suppress(OSError):  # there may be no filter
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    listener.listen(backlog)
