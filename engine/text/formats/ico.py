"""ICO and CUR: of all pictures in a file the largest, of equal ones the one with most colours, as in Chromium."""

from __future__ import annotations

from PIL import Image, ImageChops

from engine.text.formats import bmp, png
from engine.text.formats.layer import Damaged, Layer
from engine.text.image_header import DamagedHeader, Size, entry_of_icon


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture that a browser shows. Raises Damaged, or what Pillow raises."""
    try:
        entry = entry_of_icon(data)
    except DamagedHeader:
        raise Damaged from None
    content = data[entry.offset :]  # its length is often wrong, and not needed
    return png.decode(content, size) if content.startswith(png.SIGNATURE) else Layer(_bitmap(content, size))


def _bitmap(data: bytes, size: Size) -> Image.Image:
    """Return a bitmap without a file's header; its height counts the mask below it, too, which may be missing."""
    header = bmp.read_header(data, 0)
    header.height //= 2
    if header.shape != size:
        raise Damaged
    if header.depth == 32 and header.compression == bmp.PLAIN:
        header.masks = (*header.masks[:3], bmp.ALPHA_OF_ICONS)
    entry = 3 if header.size == bmp.CORE else 4
    colours = min(header.colours or 1 << header.depth, 256) if header.depth <= 8 else 0
    offset = header.end + entry * colours
    image = bmp.read_pixels(data, header, offset)
    if image.mode == "RGBA":
        return image
    try:
        hidden = bmp.mask_of_icon(data, header, bmp.end_of_pixels(header, offset))
    except Damaged:
        return image
    image.putalpha(ImageChops.invert(hidden))
    return image
