"""BMP: every header, depth, bit mask and run-length encoding that browsers show, also as the bitmap of an icon.

Read by hand, since Pillow's plugin knows only some of the bit masks, headers and runs. Sources: the BITMAPINFOHEADER
family of Windows (wingdi.h), OS/2's BITMAPINFOHEADER2, and what Chromium does where these say nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image, ImageChops

from engine.text import colour
from engine.text.formats.bmp_runs import unpacked_runs
from engine.text.formats.layer import Damaged, Layer
from engine.text.image_header import Size

FILE_HEADER = 14
CORE, INFO, WITH_ALPHA_MASK, OS2, V4, V5 = 12, 40, 56, 64, 108, 124
PLAIN, RLE8, RLE4, MASKS, RLE24_OF_OS2, MASKS_WITH_ALPHA = 0, 1, 2, 3, 4, 6
CALIBRATED, EMBEDDED = 0, int.from_bytes(b"MBED")
DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
ALPHA_OF_ICONS = 0xFF000000
# The masks that Pillow unpacks itself.
QUICK_MASKS = {
    (16, 0x7C00, 0x3E0, 0x1F, 0): "BGR;15",
    (16, 0xF800, 0x7E0, 0x1F, 0): "BGR;16",
    (32, 0xFF0000, 0xFF00, 0xFF, 0): "BGRX",
}


@dataclass(slots=True)
class Header:
    """What a header tells. masks: of red, green, blue and alpha. end: where the masks behind it end."""

    size: int
    width: int
    height: int
    depth: int
    compression: int = PLAIN
    colours: int = 0
    masks: tuple[int, int, int, int] = (0, 0, 0, 0)
    end: int = 0
    from_top: bool = False

    @property
    def shape(self) -> Size:
        """The width and the height."""
        return self.width, self.height

    @property
    def is_os2(self) -> bool:
        """Whether compressions have the numbers of OS/2."""
        return self.size < INFO or self.size == OS2


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture of a file. Raises Damaged."""
    start = FILE_HEADER if data.startswith(b"BM") else 2 * FILE_HEADER  # an array of bitmaps has a header more
    (offset,) = _unpack("<I", data, start - 4)
    header = read_header(data, start)
    if header.shape != size:
        raise Damaged
    return Layer(read_pixels(data, header, max(offset, header.end)), _profile(data, start, header))


def read_header(data: bytes, start: int) -> Header:
    """Read a header of any kind at a position. Raises Damaged."""
    (size,) = _unpack("<I", data, start)
    if size == CORE:
        width, height, _, depth = _unpack("<HHHH", data, start + 4)
        return Header(size, width, height, depth, end=start + size)
    if not 16 <= size <= 4096:
        raise Damaged
    fields = data[start : start + min(size, INFO)].ljust(INFO, b"\0")
    width, height, _, depth, compression, _, _, _, colours, _ = _unpack("<iiHHIIiiII", fields, 4)
    header = Header(size, width, abs(height), depth, compression, colours, end=start + size, from_top=height < 0)
    if depth not in DEFAULT_MASKS:
        return header
    header.masks = DEFAULT_MASKS[depth]
    has_alpha = compression == MASKS_WITH_ALPHA or size >= WITH_ALPHA_MASK and not header.is_os2
    if compression == PLAIN and depth == 32 and has_alpha:
        header.masks = (*header.masks[:3], _unpack("<I", data, start + INFO + 12)[0])
    elif compression in (MASKS, MASKS_WITH_ALPHA) and not header.is_os2:
        masks = _unpack("<IIII" if has_alpha else "<III", data, start + INFO)
        header.masks = (masks[0], masks[1], masks[2], masks[3] if has_alpha else 0)
        header.end = max(header.end, start + INFO + 4 * len(masks))
    return header


def read_pixels(data: bytes, header: Header, offset: int) -> Image.Image:
    """Return the pixels at a position. Raises Damaged."""
    if header.depth <= 8 or (header.compression == RLE24_OF_OS2 and header.is_os2):
        return _indexed(data, header, offset)
    if header.compression not in (PLAIN, MASKS, MASKS_WITH_ALPHA):
        raise Damaged
    if header.depth == 24:
        return _raw("RGB", "BGR", data, header, offset)
    if header.depth not in DEFAULT_MASKS:
        raise Damaged
    quick = QUICK_MASKS.get((header.depth, *header.masks))
    return _raw("RGB", quick, data, header, offset) if quick else _masked(data, header, offset)


def end_of_pixels(header: Header, offset: int, depth: int | None = None) -> int:
    """Return where the rows end that are not compressed. depth: if not that of the header."""
    return offset + _stride(header.width, depth or header.depth) * header.height


def _stride(width: int, depth: int) -> int:
    return (width * depth + 31) // 32 * 4


def _raw(mode: str, rawmode: str, data: bytes, header: Header, offset: int, depth: int | None = None) -> Image.Image:
    """Return rows that are not compressed."""
    rows, size = data[offset : end_of_pixels(header, offset, depth)], header.shape
    stride = _stride(header.width, depth or header.depth)
    if len(rows) < stride * (header.height - 1) + (header.width * (depth or header.depth) + 7) // 8:
        raise Damaged
    rows = rows.ljust(stride * header.height, b"\0")  # the last row may end without its padding
    order = 1 if header.from_top else -1
    return Image.frombytes(mode, size, rows, "raw", rawmode, stride, order)


def mask_of_icon(data: bytes, header: Header, offset: int) -> Image.Image:
    """Return which pixels an icon's mask hides: 255 where it is set. Raises Damaged."""
    return _raw("1", "1", data, header, offset, depth=1).convert("L")


def _indexed(data: bytes, header: Header, offset: int) -> Image.Image:
    size = header.shape
    runs = {RLE8: 8, RLE4: 4, RLE24_OF_OS2: 24}.get(header.compression)
    if header.compression == PLAIN:
        names = {1: "P;1", 2: "P;2", 4: "P;4", 8: "P"}
        if header.depth not in names:
            raise Damaged
        image, seen = _raw("P", names[header.depth], data, header, offset), None
    elif runs == header.depth:
        pixels, seen = unpacked_runs(data[offset:], *size, runs)
        mode = "RGB" if runs == 24 else "P"
        order = 1 if header.from_top else -1
        image = Image.frombytes(mode, size, pixels, "raw", "BGR" if runs == 24 else "P", 0, order)
    else:
        raise Damaged
    if image.mode == "P":
        image.putpalette(_palette(data, header, offset))
        image = image.convert("RGB")
    if seen is not None and 0 in seen:  # what no run reaches is transparent
        order = 1 if header.from_top else -1
        image.putalpha(Image.frombytes("L", size, seen, "raw", "L", 0, order).point([0] + [255] * 255))
    return image


def _palette(data: bytes, header: Header, offset: int) -> bytes:
    """Return the colours, three bytes each; those that are missing are black."""
    entry = 3 if header.size == CORE else 4
    count = min(header.colours or 1 << header.depth, 256)
    table = data[header.end : min(header.end + entry * count, max(offset, header.end))]
    blue, green, red = table[0::entry], table[1::entry], table[2::entry]
    colours = b"".join(bytes(triple) for triple in zip(red, green, blue, strict=False))
    return colours.ljust(768, b"\0")


def _masked(data: bytes, header: Header, offset: int) -> Image.Image:
    """Return pixels whose channels are bits anywhere in 16 or 32."""
    if header.depth == 32:
        planes = _raw("RGBA", "RGBA", data, header, offset).split()
    else:
        planes = _raw("LA", "LA", data, header, offset).split()
    channels = [_channel(planes, mask) for mask in header.masks]
    if header.masks[3] and channels[3].getextrema() != (0, 0):  # alpha that is 0 everywhere is taken for none
        return Image.merge("RGBA", channels)
    return Image.merge("RGB", channels[:3])


def _channel(planes: tuple[Image.Image, ...], mask: int) -> Image.Image:
    """Return the channel of a mask: the sum of what each byte of a pixel adds to it."""
    channel = Image.new("L", planes[0].size)
    if not mask:
        return channel
    lowest = (mask & -mask).bit_length() - 1
    top = mask >> lowest
    for number, plane in enumerate(planes):
        part = mask >> 8 * number & 0xFF
        if part:
            shift = 8 * number - lowest
            added = [level & part for level in range(256)]
            table = [round(255 * (value << shift if shift >= 0 else value >> -shift) / top) for value in added]
            channel = ImageChops.add(channel, plane.point(table))
    return channel


def _profile(data: bytes, start: int, header: Header) -> bytes | None:
    """Return the profile that a header of version 4 or 5 tells, None for sRGB."""
    if header.size < V4:
        return None
    (kind,) = _unpack("<I", data, start + 56)
    if kind == CALIBRATED:
        *corners, gamma, _, _ = _unpack("<9i3I", data, start + 60)
        sums = [sum(corners[at : at + 3]) for at in (0, 3, 6)]
        if not gamma or 0 in sums:
            return None
        xy = [corners[3 * at + axis] / sums[at] for at in range(3) for axis in range(2)]
        return colour.gamma_profile(gamma / 65_536, (*colour.SRGB[:2], *xy))
    if kind == EMBEDDED and header.size >= V5:
        position, size = _unpack("<II", data, start + 112)
        return data[start + position : start + position + min(size, colour.MAX_PROFILE_BYTES)]
    return None


def _unpack(fields: str, data: bytes, offset: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(fields, data, offset)
    except struct.error:
        raise Damaged from None
