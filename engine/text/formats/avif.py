"""AVIF, of a sequence the first frame."""

from __future__ import annotations

from io import BytesIO

from PIL import AvifImagePlugin

from engine.text import colour
from engine.text.avif_header import NoPicture, read_avif
from engine.text.formats.layer import Damaged, Layer, orientation_in

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each one takes memory


def decode(data: bytes) -> Layer:
    """Return the picture. Raises Damaged, or what Pillow raises.

    The plugin tells a rotation or reflection of the container as EXIF does, and passes over the EXIF data's own, as
    Chromium does.
    """
    try:
        picture = read_avif(data)
    except NoPicture:
        raise Damaged from None
    image = AvifImagePlugin.AvifImageFile(BytesIO(_with_distinct_boxes(data, picture.associations)))
    if image.size != (picture.width, picture.height):
        raise Damaged
    image.load()
    profile = image.info.get("icc_profile") or colour.coded_profile(*picture.code_points)
    return Layer(image, profile, orientation_in(image.info.get("exif", b"").removeprefix(b"Exif\0\0")))


def _with_distinct_boxes(data: bytes, associations: tuple[int, ...]) -> bytes:
    """Return a file whose boxes of associations differ in their flags, as libavif wants them; early programs wrote some
    that do not. The flags' second bit has no meaning.
    """
    if len(associations) < 2 or len({data[start : start + 4] for start in associations}) == len(associations):
        return data
    changed = bytearray(data)
    for number, start in enumerate(associations):
        changed[start + 3] |= number << 1 & 0xFE
    return bytes(changed)
