"""What a file holds before colours are converted, transparency is composed and orientation is applied."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image

ORIENTATION, SHORT = 0x0112, 3


class Damaged(Exception):
    """The file is not one of its format, or its pixels are incomplete."""


@dataclass(slots=True)
class Layer:
    """Stored pixels, and how they are to be shown.

    pixels: in one of the modes L, LA, RGB, RGBA and CMYK. profile: the ICC profile of its colours, None for sRGB.
    orientation: as EXIF numbers it, 1 for upright.
    """

    pixels: Image.Image
    profile: bytes | None = None
    orientation: int = 1


def orientation_in(exif: bytes) -> int:
    """Return the first orientation that EXIF data tell in their first directory, 1 where they tell none.

    Source: EXIF 2.32, 4.6.2; TIFF 6.0, section 2.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            *field, value = struct.unpack_from(order + "HHIH", exif, entry)
            if field == [ORIENTATION, SHORT, 1] and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1
