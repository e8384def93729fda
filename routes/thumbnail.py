"""A small copy of an image for the page, made from its pixels alone: no metadata of the file remains."""

from __future__ import annotations

import base64
from io import BytesIO

from engine.text.images import decode
from engine.types import EncodedImage

SIDE = 480  # pixels


def thumbnail_url(image: EncodedImage) -> str:
    """Return a JPEG of at most SIDE pixels a side as a data URL. Raises ValidationError for a damaged image."""
    small = decode(image)
    small.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
