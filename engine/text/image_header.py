"""Reads the size of an image from its header, by hand: a few reads of fixed places, whatever the file claims.

The plugins of Pillow allocate canvases and inflate chunks when they open a file, and walk over as many segments as it
has. Here nothing is allocated, and STEPS bounds the walk. Nothing else is checked; the decoder does that.
Sources: PNG (ISO 15948, 11.2.2), JPEG (T.81, B.2), WebP (RFC 9649, 2.6), GIF89a (sections 18, 20 and 22), BMP
(BITMAPINFOHEADER).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

STEPS = 8192  # segments or blocks before the size; files of cameras and editors have some hundred
JUNK = 64 * 1024  # bytes between two segments of a JPEG, which decoders skip
PNG = b"\x89PNG\r\n\x1a\n"
# Markers of JPEG: those of a frame's header, and those that stand alone.
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
END_OF_IMAGE, START_OF_SCAN, FILL = 0xD9, 0xDA, b"\xff"
GIF_EXTENSION, GIF_IMAGE, GIF_END = 0x21, 0x2C, 0x3B
BMP_OLD_HEADER, BMP_HEADER = 12, 40

Size = tuple[int, int]


class Damaged(Exception):
    """The header is not one of its format, or the size is not where it should be."""


def reader_for(data: bytes) -> Callable[[bytes], Size] | None:
    """Return what reads the width and height of this kind of file, None for a kind that is not known.

    The reader raises Damaged.
    """
    if data.startswith(PNG):
        return read_png
    if data.startswith(b"\xff\xd8\xff"):
        return read_jpeg
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return read_webp
    if data.startswith((b"GIF87a", b"GIF89a")):
        return read_gif
    return read_bmp if data.startswith(b"BM") else None


def read_png(data: bytes) -> Size:
    length, kind, width, height = _unpack(">I4sII", data, len(PNG))
    if (length, kind) != (13, b"IHDR"):
        raise Damaged
    return width, height


def read_jpeg(data: bytes) -> Size:
    position = 2
    for _ in range(STEPS):
        position = data.find(FILL, position, position + JUNK)
        if position < 0 or position + 1 >= len(data):
            raise Damaged
        marker = data[position + 1]
        if marker in FRAMES:
            height, width = _unpack(">HH", data, position + 5)
            return width, height
        if marker in (END_OF_IMAGE, START_OF_SCAN):
            raise Damaged
        if marker == FILL[0]:  # any number of them may come before a marker
            position += 1
        elif marker in ALONE:
            position += 2
        else:
            position += 2 + max(2, _unpack(">H", data, position + 2)[0])
    raise Damaged


def read_webp(data: bytes) -> Size:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
        return (width, height) if len(data) >= 30 else _fail()
    if kind == b"VP8L":
        signature, bits = _unpack("<BI", data, 20)
        return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if signature == 0x2F else _fail()
    start, width, height = _unpack("<3sHH", data, 23)
    return (width & 0x3FFF, height & 0x3FFF) if (kind, start) == (b"VP8 ", b"\x9d\x01\x2a") else _fail()


def read_gif(data: bytes) -> Size:
    """The screen, made large enough for the first image, as decoders do."""
    width, height, flags = _unpack("<HHB", data, 6)
    position = 13 + _table(flags)
    in_extension = False
    for _ in range(STEPS):
        if position >= len(data):
            break
        code = data[position]
        position += 1
        if in_extension:
            position += code
            in_extension = code > 0
        elif code == GIF_EXTENSION:
            position += 1
            in_extension = True
        elif code == GIF_IMAGE:
            left, top, wide, high = _unpack("<HHHH", data, position)
            return max(width, left + wide), max(height, top + high)
        elif code == GIF_END:
            break
    raise Damaged


def _table(flags: int) -> int:
    """Return the length in bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def read_bmp(data: bytes) -> Size:
    (header,) = _unpack("<I", data, 14)
    if header == BMP_OLD_HEADER:
        width, height = _unpack("<HH", data, 18)
        return width, height
    if header < BMP_HEADER:
        raise Damaged
    width, height = _unpack("<Ii", data, 18)
    return width, abs(height)  # a negative one: rows from the top


def _unpack(fields: str, data: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(fields, data, offset)
    except struct.error:
        raise Damaged from None


def _fail() -> NoReturn:
    raise Damaged
