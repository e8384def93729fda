"""A process that decodes and resizes images, and nothing else: it holds no model and no port.

What strangers send is decoded here, where a decoder that takes too long is killed, and one that takes too much memory
meets a limit of its own. `python -m engine.text.image_worker SOCKET MEMORY_BYTES` serves jobs on an inherited socket,
one at a time, until the other end is closed; `engine.text.image_workers` is that other end.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while: Ctrl+C is for the service to handle
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

import json
import socket
import struct
import sys

from engine.errors import Message, ServiceError
from engine.text.image_decoder import Job, resized
from engine.text.worker_process import receive, serve

# A job: the length of the file that follows, then the other fields of `Job`.
JOB = struct.Struct("!QIQQB")
# The outcome: 1 with the size of the RGB pixels that follow, or 0 with the length of the JSON that tells the error.
OUTCOME = struct.Struct("!BII")


def work(jobs: socket.socket) -> None:
    """Do one job after another until the other end is closed."""
    while head := receive(jobs, JOB.size):
        size, *limits = JOB.unpack(head)
        data = receive(jobs, size)
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


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve on an inherited socket."""
    serve(descriptor, memory_bytes, work)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
