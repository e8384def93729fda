"""WebP (RFC 9649), of an animation the first frame. Browsers do not apply the orientation in its EXIF data."""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from engine.text.formats.layer import Damaged, Layer
from engine.text.image_header import STEPS, Size

Box = tuple[int, int, int, int]


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture. Raises Damaged, or what Pillow raises."""
    image = WebPImageFile(BytesIO(data))
    if image.size != size:
        raise Damaged
    image.load()
    profile, frame = image.info.get("icc_profile"), _first_frame(data)
    if frame is None or image.mode == "RGBA" or frame == (0, 0, *image.size):
        return Layer(image, profile)
    canvas = Image.new("RGBA", image.size)  # what an animation without transparency leaves free is transparent
    canvas.paste(image.crop(frame), frame)
    return Layer(canvas, profile)


def _first_frame(data: bytes) -> Box | None:
    """Return where the first frame of an animation stands, None for a picture that is none."""
    position = 12
    for _ in range(STEPS):
        if position + 20 > len(data):
            break
        if data[position : position + 4] == b"ANMF":
            fields = range(position + 8, position + 20, 3)
            left, top, width, height = (int.from_bytes(data[at : at + 3], "little") for at in fields)
            return 2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1
        (size,) = struct.unpack_from("<I", data, position + 4)
        position += 8 + size + size % 2
    return None
