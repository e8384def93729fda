"""JPEG (T.81), also in grey and CMYK, with the metadata of EXIF (2.32, 4.5.4) and ICC (ICC.1, annex B).

A file that ends before its end mark is whole if its own bytes determine every pixel; browsers show such files, which
some cameras and downloads leave behind.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from io import BytesIO

from PIL import ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from engine.text.formats.layer import Damaged, Layer, orientation_in
from engine.text.image_header import START_OF_SCAN, STEPS, Size, segments_of_jpeg

END = b"\xff\xd9"
# Amid scans, libjpeg passes over all other markers without their length (next_marker, jpeg_resync_to_restart).
AMID_SCANS = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
APP0, APP1, APP2, APP14, COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
JFIF_BYTES, ADOBE_BYTES = 14, 12
EXIF, PROFILE = b"Exif\0", b"ICC_PROFILE\0"
# Two endings that no decoder mistakes for markers. Where bits of pixels are missing, each gives others.
ENDINGS = (bytes(64), bytes(random.Random(0).choices(range(1, 255), k=64)))  # nosec B311 # not a secret


@dataclass(frozen=True, slots=True)
class _Segment:
    """A marker, and what follows its length."""

    marker: int
    body: bytes

    @property
    def is_metadata(self) -> bool:
        """Whether the pixels are the same without it: not so for what tells how their colours are stored."""
        if self.marker == APP0:
            return len(self.body) < JFIF_BYTES
        if self.marker == APP14:
            return len(self.body) < ADOBE_BYTES
        return APP0 <= self.marker <= COMMENT

    def written(self) -> bytes:
        return bytes((0xFF, self.marker)) + (len(self.body) + 2).to_bytes(2) + self.body


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture. Raises Damaged, or what Pillow raises.

    The plugin refuses files for damaged metadata, so it gets a file without them.
    """
    *before, first_scan = segments_of_jpeg(data)
    segments = [_Segment(marker, data[start:end]) for marker, start, end in before]
    pixels = first_scan.start - 4  # with its marker and length
    file = b"".join((data[:2], *(part.written() for part in segments if not part.is_metadata), data[pixels:]))
    image = JpegImageFile(BytesIO(file))
    if image.size != size:  # of several headers of a frame the last one counts here
        raise Damaged
    try:
        image.load()
    except OSError:
        image = _completed(file)
    exif = next((part.body for part in segments if part.marker == APP1 and part.body.startswith(EXIF)), b"")
    profiles = (part.body for part in segments if part.marker == APP2 and part.body.startswith(PROFILE))
    profile = _profile([body[len(PROFILE) :] for body in profiles])
    return Layer(image, profile, orientation_in(exif[len(EXIF) + 1 :]))


def scans(data: bytes) -> int:
    """Return how many scans a decoder reads: STEPS where more stands among them than in any real file.

    Neither metadata count nor what follows the end of the picture, where phones put a video. Raises DamagedHeader.
    """
    *_, (_, _, position) = segments_of_jpeg(data)
    count = 1
    for _ in range(STEPS):
        found = AMID_SCANS.search(data, position)
        if found is None or found[0] == END:
            return count
        count += found[0][1] == START_OF_SCAN
        position = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return STEPS


def _profile(parts: list[bytes]) -> bytes | None:
    """Return the profile of numbered parts, None unless there is each one of those that the first one counts."""
    numbered = {part[0]: part[2:] for part in reversed(parts) if len(part) > 2}  # of each number the first
    total = parts[0][1] if parts and len(parts[0]) > 1 else 0
    if not total or not numbered.keys() >= set(range(1, total + 1)):
        return None
    return b"".join(numbered[number] for number in range(1, total + 1))


def _completed(data: bytes) -> JpegImageFile:
    """Return a picture without an end mark. Raises Damaged if more is missing."""
    images = [JpegImageFile(BytesIO(data + ending + END)) for ending in ENDINGS]
    for image in images:
        image.load()
    if any(ImageChops.difference(*pair).getbbox() for pair in zip(*(image.split() for image in images), strict=True)):
        raise Damaged
    return images[0]
