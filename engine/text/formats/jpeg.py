"""JPEG (T.81), also in grey and CMYK, with the metadata of EXIF (2.32, 4.5.4) and ICC (ICC.1, annex B).

A file that ends before its end mark is whole if its own bytes determine every pixel; browsers show such files, which
some cameras and downloads leave behind.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from io import BytesIO

from PIL import ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from engine.text.formats.layer import Damaged, Layer, orientation_in
from engine.text.image_header import ALONE, START_OF_SCAN, STEPS, Size

END = b"\xff\xd9"
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
    segments, pixels = _segments(data)
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


def _segments(data: bytes) -> tuple[list[_Segment], int]:
    """Return what comes before the pixels, and where those begin. Raises Damaged where that is nowhere."""
    segments: list[_Segment] = []
    position = 2
    for _ in range(STEPS):
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            break
        marker = data[position + 1]
        if marker == START_OF_SCAN:
            return segments, position
        if marker == 0xFF or marker in ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4]))
        segments.append(_Segment(marker, data[position + 4 : end]))
        position = end
    raise Damaged


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
