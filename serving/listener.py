"""The end of a listening socket, at which nobody is accepted and then reset.

Closing a listening socket resets the connections that wait in it, and between the last accept and the close there is
a moment. So on Linux the socket first drops what arrives, by a filter that lets no packet pass (socket(7),
SO_ATTACH_FILTER); then whoever has connected is accepted, and the rest is refused. A caller whose first packet fell
into that moment sends it again a second later and is refused too.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
# One instruction of the classic Berkeley packet filter: return 0 bytes of the packet.
DROP = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
PROGRAM = struct.pack("@HP", 1, ctypes.addressof(DROP))


def end_listening(listener: Any, accept_all: Callable[[], None]) -> None:
    """Let nobody connect any more, accept who has, and have the kernel refuse the rest."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel that forbids it leaves the moment open
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, PROGRAM)
    accept_all()
    listener.shutdown(socket.SHUT_RDWR)


def listen_again(listener: Any, backlog: int) -> None:
    """Take connections on a socket whose listening a process before this one has ended; otherwise do nothing."""
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    with contextlib.suppress(OSError):  # there need not be a filter
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    listener.listen(backlog)
