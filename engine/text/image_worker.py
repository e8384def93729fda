"""A process that decodes and resizes images, and nothing else: it holds no model and no port.

What strangers send is decoded here, where a decoder that takes too long is killed, and one that takes too much memory
meets a limit of its own. `python -m engine.text.image_worker SOCKET MEMORY_BYTES` serves jobs on an inherited socket,
one at a time, until the other end is closed; `engine.text.image_workers` is that other end.
"""

from __future__ import annotations

import ctypes
import json
import math
import resource
import signal
import socket
import struct
import sys

from PIL import Image

from engine.errors import Message, ServiceError, ValidationError
from engine.text.images import decode
from engine.types import EncodedImage

# A job: the length of the file that follows, and the limits of the result: factor of its sides, fewest and most pixels;
# for a thumbnail the factor is 0 and the last number its longest side.
JOB = struct.Struct("!QIQQ")
# The outcome: 1 with the size of the RGB pixels that follow, or 0 with the length of the JSON that tells the error.
OUTCOME = struct.Struct("!BII")
READY = b"R"
PR_SET_PDEATHSIG = 1
MAX_ASPECT = 200
SHAPE = Message("image_shape", "The image's shape is not one that this model can read.")


def fitted(width: int, height: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the width and height that the model reads an image in: multiples of `factor`, about the same shape, and
    between `min_pixels` and `max_pixels` in all. Raises ValidationError for a shape that no model reads.

    Source: the image processor of Qwen2-VL.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValidationError(SHAPE, "image")
    near = [round(side / factor) * factor for side in (width, height)]
    if near[0] * near[1] > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        near = [max(factor, math.floor(side / scale / factor) * factor) for side in (width, height)]
    elif near[0] * near[1] < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        near = [math.ceil(side * scale / factor) * factor for side in (width, height)]
    return near[0], near[1]


def resized(data: bytes, factor: int, min_pixels: int, max_pixels: int) -> Image.Image:
    """Return an image as the model reads it, or as a thumbnail (factor 0), in RGB. Raises ServiceError."""
    image = decode(EncodedImage(data, 0, 0))
    if factor == 0:
        image.thumbnail((max_pixels, max_pixels))
        return image
    return image.resize(fitted(*image.size, factor, min_pixels, max_pixels), Image.Resampling.BICUBIC)


def serve(jobs: socket.socket) -> None:
    """Do one job after another until the other end is closed."""
    jobs.sendall(READY)
    while head := _receive(jobs, JOB.size):
        size, factor, min_pixels, max_pixels = JOB.unpack(head)
        data = _receive(jobs, size)
        try:
            image = resized(data, factor, min_pixels, max_pixels)
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


def _confine(memory_bytes: int) -> None:
    """End with the service, leave its signals to it, and take no more memory than allowed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve on an inherited socket."""
    _confine(memory_bytes)
    with socket.socket(fileno=descriptor) as jobs:
        try:
            serve(jobs)
        except (MemoryError, BrokenPipeError):  # the other end sees that this process is gone
            sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
