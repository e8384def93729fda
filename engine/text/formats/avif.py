"""AVIF, of a sequence the first frame."""

from __future__ import annotations

from io import BytesIO

from PIL import AvifImagePlugin

from engine.text import colour
from engine.text.avif_header import AvifPicture, NoPicture, read_avif
from engine.text.formats.layer import Damaged, Layer, orientation_in
from engine.text.image_header import Size

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each one takes memory


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture. Raises Damaged, or what Pillow raises.

    The plugin tells a rotation or reflection of the container as EXIF does; those of the EXIF data do not count.
    A coded frame may be larger than its item, up to 2**28 pixels, and is scaled; the limits of the process bound it.
    """
    try:
        picture = read_avif(data)
    except NoPicture:
        raise Damaged from None
    image = AvifImagePlugin.AvifImageFile(BytesIO(_mended(data, picture)))
    if image.size != size:
        raise Damaged
    image.load()
    profile = image.info.get("icc_profile") or colour.coded_profile(*picture.code_points)
    return Layer(image, profile, orientation_in(image.info.get("exif", b"").removeprefix(b"Exif\0\0")))


def _mended(data: bytes, picture: AvifPicture) -> bytes:
    """Return a file that libavif reads, which refuses two kinds that browsers show.

    Its boxes of associations differ in their flags, of which the second bit has no meaning; early programs wrote equal
    ones. Its EXIF data, which may be damaged, are those of no known kind.
    """
    changed = bytearray(data)
    for number, start in enumerate(picture.associations):
        changed[start + 3] |= number << 1 & 0xFE
    for place in picture.exif:
        changed[place : place + 4] = b"none"
    return bytes(changed)
