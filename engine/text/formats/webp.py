"""WebP (RFC 9649), of an animation the first frame. Browsers do not apply the orientation in its EXIF data."""

from __future__ import annotations

from io import BytesIO

from PIL.WebPImagePlugin import WebPImageFile

from engine.text.formats.layer import Layer


def decode(data: bytes) -> Layer:
    """Return the picture. Raises what Pillow raises."""
    image = WebPImageFile(BytesIO(data))
    image.load()
    return Layer(image, image.info.get("icc_profile"))
