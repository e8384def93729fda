"""What a process that decodes images does with its socket, here in a thread; test_image_workers has the processes."""

import json
import socket
import threading
import zlib
from io import BytesIO

import pytest
from PIL import Image

from engine.text.image_worker import JOB, OUTCOME, work
from engine.text.images import DAMAGED, TOO_MANY_PIXELS

PATIENCE = 60.0


@pytest.fixture
def jobs():
    """The service's end of the socket of a worker that is ready; it ends by itself once that is closed."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    worker = threading.Thread(target=work, args=(theirs,), daemon=True)
    worker.start()
    with ours, theirs:
        yield ours
        ours.shutdown(socket.SHUT_WR)
        worker.join(PATIENCE)
        assert not worker.is_alive()


def receive(jobs, size):
    """Return exactly `size` bytes."""
    data = b""
    while len(data) < size:
        received = jobs.recv(size - len(data))
        assert received
        data += received
    return data


def send(jobs, data, factor, min_pixels, max_pixels):
    jobs.sendall(JOB.pack(len(data), factor, min_pixels, max_pixels, Image.Resampling.BICUBIC) + data)
    return OUTCOME.unpack(receive(jobs, OUTCOME.size))


def png(width, height):
    data = BytesIO()
    Image.new("RGB", (width, height), "red").save(data, "PNG")
    return data.getvalue()


def promising(width, height):
    """Return a file of a few bytes whose header promises this size."""
    data = png(1, 1)
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4) + data[33:]


def test_one_job_after_another_is_done(jobs):
    """An image in the size that a model reads, then a thumbnail; each with all of its pixels."""
    for factor, limits, size in ((28, (56 * 56, 28 * 28 * 1280), (308, 196)), (0, (0, 96), (96, 64))):
        assert send(jobs, png(300, 200), factor, *limits) == (1, *size)
        assert receive(jobs, 3 * size[0] * size[1]) == b"\xff\0\0" * size[0] * size[1]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (png(30, 20)[:40], "ValidationError", DAMAGED),
        (promising(9999, 9999), "PayloadTooLarge", TOO_MANY_PIXELS),
    ],
    ids=["damaged", "large"],
)
def test_what_is_refused_is_told_as_one_of_our_errors(jobs, data, kind, message):
    """By its name, with the key of its sentence; the next job is done."""
    good, size, _ = send(jobs, data, 28, 56 * 56, 28 * 28 * 1280)
    assert not good
    told = json.loads(receive(jobs, size))
    assert told == {"error": kind, "message": message, "key": message.key, "values": message.values}
    assert send(jobs, png(30, 20), 0, 0, 96)[0] == 1
    receive(jobs, 3 * 30 * 20)


def test_a_job_that_breaks_off_is_the_last(jobs):
    """The other end is closed in the middle of a file: the fixture sees the worker end."""
    jobs.sendall(JOB.pack(1000, 0, 0, 96, Image.Resampling.BICUBIC) + bytes(10))
