"""What the processes that do killable work have in common: an inherited socket, limits, and their end.

They hold no model and no port. Each serves one job at a time until the other end of its socket, `worker_handle`, is
closed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

READY = b"R"
# Added to the service's own. On a machine whose cores are all busy, such a process gets a third of what a thread of the
# service gets, and that one need not wait for the end of its time slice.
NICENESS = 5
# A stop is the service's to handle, which may need the jobs under way; such a process ends when its socket is closed.
LEFT_TO_THE_SERVICE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def serve(descriptor: int, memory_bytes: int, work: Callable[[socket.socket], None]) -> None:
    """Serve on an inherited socket. work: does one job after another, and returns when the other end is closed."""
    with socket.socket(fileno=descriptor) as jobs:
        threading.Thread(target=_end_with, args=(jobs,), daemon=True).start()
        _confine(memory_bytes)
        try:
            jobs.sendall(READY)
            work(jobs)
        except (MemoryError, BrokenPipeError, ConnectionResetError):  # the other end sees that this process is gone
            sys.exit(1)


def receive(source: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes, b"" where the other end is closed."""
    data, filled = bytearray(size), 0
    while filled < size:
        received = source.recv_into(memoryview(data)[filled:])
        if not received:
            return b""
        filled += received
    return bytes(data)


def _end_with(jobs: socket.socket) -> None:
    """End this process once the other end is closed, also in the middle of a job."""
    look = select.poll()
    look.register(jobs, 0)  # a hang-up is always reported
    look.poll()
    os._exit(1)


def _confine(memory_bytes: int) -> None:
    """Leave the service's signals to it, let it run first, and take no more memory than allowed."""
    for number in LEFT_TO_THE_SERVICE:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
