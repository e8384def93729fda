"""Reads the size of an image from its header, by hand: a few reads of fixed places, whatever the file claims.

The plugins of Pillow allocate canvases and inflate chunks when they open a file, and walk over as many segments as it
has. Here nothing is allocated, and STEPS bounds the walk. Nothing else is checked; the decoder does that.
Sources: PNG (ISO 15948, 11.2.2), JPEG (T.81, B.2), WebP (RFC 9649, 2.6), GIF89a (sections 18, 20 and 22), BMP and ICO
(BITMAPINFOHEADER and NEWHEADER of Windows, BITMAPINFOHEADER2 of OS/2); AVIF has a module of its own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from engine.text import avif_header
from engine.text.avif_header import is_avif

STEPS = 1024  # segments or blocks before the size; files of cameras and editors have some hundred
GIF_BLOCKS = 32 * 1024  # of the extensions of a GIF, all together; XMP, read as such blocks, has some 65 bytes in each
JUNK = 64 * 1024  # bytes between the segments of a JPEG, in all, which decoders skip
PNG = b"\x89PNG\r\n\x1a\n"
# Markers of JPEG: those of a frame's header, and those of segments; others stand alone, or fill.
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
GIF_EXTENSION, GIF_IMAGE, GIF_END, GIF_CONTROL = 0x21, 0x2C, 0x3B, b"\xf9\x04"
BMP_START, BMP_OLD_HEADER, BMP_HEADER = 14, 12, 16
ICON, CURSOR = b"\0\0\1\0", b"\0\0\2\0"

Size = tuple[int, int]


class DamagedHeader(Exception):
    """The header is not one of its format, or the size is not where it should be."""


def reader_for(data: bytes) -> Callable[[bytes], Size] | None:
    """Return what reads the width and height of this kind of file, None for a kind that is not known.

    The reader raises DamagedHeader.
    """
    if data.startswith(PNG):
        return read_png
    if data.startswith(b"\xff\xd8\xff"):
        return read_jpeg
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return read_webp
    if data.startswith((b"GIF87a", b"GIF89a")):
        return read_gif
    if data.startswith((ICON, CURSOR)) and any(data[4:6]) and not any(data[9:10]):  # TGA can begin likewise
        return read_ico
    if is_avif(data):
        return read_avif
    return read_bmp if data.startswith(b"BM") or (data[:2], data[14:16]) == (b"BA", b"BM") else None


def read_png(data: bytes, start: int = 0) -> Size:
    length, kind, width, height = _unpack(">I4sII", data, start + len(PNG))
    if (length, kind) != (13, b"IHDR"):
        raise DamagedHeader
    return width, height


def read_jpeg(data: bytes) -> Size:
    for segment in segments_of_jpeg(data):
        if segment.marker in FRAMES:
            height, width = _unpack(">HH", data, segment.start + 1)
            return width, height
    raise DamagedHeader


class JpegSegment(NamedTuple):
    """A marker, and where what follows its length starts and ends."""

    marker: int
    start: int
    end: int


def segments_of_jpeg(data: bytes) -> Iterator[JpegSegment]:
    """Yield what comes before the pixels, with the segment that starts them as the last. Raises DamagedHeader."""
    position, junk = 2, JUNK
    for _ in range(STEPS):
        found = SEGMENT.search(data, position, position + junk + 2)
        if found is None or found[0][1] == END_OF_IMAGE:
            break
        junk -= found.start() - position
        position = found.end() + max(2, _unpack(">H", data, found.end())[0])
        yield JpegSegment(found[0][1], found.end() + 2, position)
        if found[0][1] == START_OF_SCAN:
            return
    raise DamagedHeader


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
    return first_image_of_gif(data).screen


@dataclass(frozen=True, slots=True)
class GifImage:
    """Where the first image of a GIF stands. screen: made large enough for it. control: the extension before it.

    colours_end, start: the positions behind the screen's table of colours, and of the image's descriptor.
    """

    screen: Size
    left: int
    top: int
    width: int
    height: int
    colours_end: int
    start: int
    control: bytes


def first_image_of_gif(data: bytes) -> GifImage:
    """Find the first image. Raises DamagedHeader."""
    width, height, flags = _unpack("<HHB", data, 6)
    position = colours_end = 13 + _table(flags)
    control, blocks = b"", iter(range(GIF_BLOCKS))
    for _ in range(STEPS):
        if position >= len(data):
            break
        code = data[position]
        position += 1
        if code == GIF_EXTENSION:
            if data[position : position + 2] == GIF_CONTROL:
                control = data[position - 1 : position + 7]
            position = _behind_blocks(data, position + 1, blocks)
        elif code == GIF_IMAGE:
            left, top, wide, high = _unpack("<HHHH", data, position)
            screen = max(width, left + wide), max(height, top + high)
            return GifImage(screen, left, top, wide, high, colours_end, position, control)
        elif code == GIF_END:
            break
    raise DamagedHeader


def _behind_blocks(data: bytes, position: int, left: Iterator[int]) -> int:
    """Return where the blocks of an extension end. left: has an item for each that may still be read."""
    for _ in left:
        if position >= len(data):
            break
        size = data[position]
        position += 1 + size
        if not size:
            return position
    raise DamagedHeader


def _table(flags: int) -> int:
    """Return the length in bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def read_bmp(data: bytes) -> Size:
    start = BMP_START if data.startswith(b"BM") else 2 * BMP_START  # an array of bitmaps has a header more
    return _bitmap(data, start)


def _bitmap(data: bytes, start: int) -> Size:
    """Return the size in a bitmap's header."""
    (header,) = _unpack("<I", data, start)
    if header == BMP_OLD_HEADER:
        width, height = _unpack("<HH", data, start + 4)
        return width, height
    if header < BMP_HEADER:
        raise DamagedHeader
    width, height = _unpack("<ii", data, start + 4)
    return width if width > 0 else _fail(), abs(height)  # a negative height: rows from the top


@dataclass(frozen=True, slots=True)
class IconEntry:
    """One picture of an icon: its size, and where its bytes begin."""

    size: Size
    offset: int


def read_ico(data: bytes) -> Size:
    """The size of the picture that browsers show."""
    return entry_of_icon(data).size


def entry_of_icon(data: bytes) -> IconEntry:
    """Return the largest picture, of several that with the most bits, of several the first.

    Raises DamagedHeader, also where the picture itself tells another size, which is what a decoder would allocate.
    """
    (count,) = _unpack("<H", data, 4)
    best, found = (-1, -1), None
    for number in range(min(count, STEPS)):
        width, height, colours, bits, offset = _unpack("<BBBxxxH4xI", data, 6 + 16 * number)
        size = width or 256, height or 256
        if data.startswith(CURSOR):  # where icons have the bits, cursors have a place
            bits = 0
        rank = size[0] * size[1], bits or ((colours - 1) % 256).bit_length()
        if rank > best:
            best, found = rank, IconEntry(size, offset)
    if found is None or _shape_at(data, found.offset) != found.size:
        raise DamagedHeader
    return found


def _shape_at(data: bytes, offset: int) -> Size:
    """Return the size that a picture of an icon tells itself."""
    if data.startswith(PNG, offset):
        return read_png(data, offset)
    width, height = _bitmap(data, offset)
    return width, height // 2  # the mask below counts too


def read_avif(data: bytes) -> Size:
    try:
        picture = avif_header.read_avif(data)
    except avif_header.NoPicture:
        raise DamagedHeader from None
    return picture.width, picture.height


def _unpack(fields: str, data: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(fields, data, offset)
    except struct.error:
        raise DamagedHeader from None


def _fail() -> NoReturn:
    raise DamagedHeader
