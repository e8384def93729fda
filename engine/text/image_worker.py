"""A process that decodes and resizes images, and nothing else: it holds no model and no port.

What strangers send is decoded here, where a decoder that takes too long is killed, and one that takes too much memory
meets a limit of its own. `python -m engine.text.image_worker SOCKET MEMORY_BYTES` serves jobs on an inherited socket,
one at a time, until the other end is closed; `engine.text.image_workers` is that other end.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading

from engine.errors import Message, ServiceError
from engine.text.image_decoder import Job, resized

# A job: the length of the file that follows, then the other fields of `Job`.
JOB = struct.Struct("!QIQQB")
# The outcome: 1 with the size of the RGB pixels that follow, or 0 with the length of the JSON that tells the error.
OUTCOME = struct.Struct("!BII")
READY = b"R"
# A stop is the service's to handle, which may need the jobs under way; this process ends when its socket is closed.
LEFT_TO_THE_SERVICE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def serve(jobs: socket.socket) -> None:
    """Do one job after another until the other end is closed."""
    jobs.sendall(READY)
    while head := _receive(jobs, JOB.size):
        size, *limits = JOB.unpack(head)
        data = _receive(jobs, size)
        try:
            image = resized(Job(data, *limits))
        except ServiceError as error:
            told = json.dumps(_told(error)).encode()
            jobs.sendall(OUTCOME.pack(0, len(told), 0) + told)
        else:
            jobs.sendall(OUTCOME.pack(1, *image.size) + image.tobytes())


def _told(error: ServiceError) -> dict[str, object]:
    told: dict[str, object] = {"error": type(error).__name__, "message": error.message}
    if isinstance(error.message, Message):
        told |= {"key": error.message.key, "values": error.message.values}
    return told


def _receive(source: socket.socket, size: int) -> bytes:
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
    """Leave the service's signals to it, and take no more memory than allowed."""
    for number in LEFT_TO_THE_SERVICE:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve on an inherited socket."""
    with socket.socket(fileno=descriptor) as jobs:
        threading.Thread(target=_end_with, args=(jobs,), daemon=True).start()
        _confine(memory_bytes)
        try:
            serve(jobs)
        except (MemoryError, BrokenPipeError, ConnectionResetError):  # the other end sees that this process is gone
            sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
