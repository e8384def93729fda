"""JPEG (T.81), also in grey and CMYK.

A file that ends before its end mark is whole if its own bytes determine every pixel; browsers show such files, which
some cameras and downloads leave behind.
"""

from __future__ import annotations

import random
from io import BytesIO

from PIL import ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from engine.text.formats.layer import Damaged, Layer, orientation_in

END = b"\xff\xd9"
EXIF = b"Exif\0\0"
# Two endings that no decoder mistakes for markers. Where bits of pixels are missing, each gives others.
ENDINGS = (bytes(64), bytes(random.Random(0).choices(range(1, 255), k=64)))  # nosec B311 # not a secret


def decode(data: bytes) -> Layer:
    """Return the picture. Raises Damaged, or what Pillow raises."""
    image = JpegImageFile(BytesIO(data))
    try:
        image.load()
    except OSError:
        image = _completed(data)
    exif = image.info.get("exif", b"")
    return Layer(image, image.info.get("icc_profile"), orientation_in(exif[len(EXIF) :]) if exif else 1)


def _completed(data: bytes) -> JpegImageFile:
    """Return a picture without an end mark. Raises Damaged if more is missing."""
    images = [JpegImageFile(BytesIO(data + ending + END)) for ending in ENDINGS]
    for image in images:
        image.load()
    if any(ImageChops.difference(*pair).getbbox() for pair in zip(*(image.split() for image in images), strict=True)):
        raise Damaged
    return images[0]
