"""A small copy of an image for the page, made from its pixels alone: no metadata of the file remains."""

from __future__ import annotations

import base64
from io import BytesIO

from PIL import Image

from engine.text.image_decoder import ImageDecoder, Job
from engine.types import EncodedImage
from engine.wanted import Wanted

SIDE = 480  # pixels


def thumbnail_url(image: EncodedImage, decoder: ImageDecoder, wanted: Wanted) -> str:
    """Return a JPEG of at most SIDE pixels a side as a data URL. Raises as `ImageDecoder.decode` does."""
    pixels = decoder.decode(Job(image.data, 0, 0, SIDE), wanted)
    buffer = BytesIO()
    Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
