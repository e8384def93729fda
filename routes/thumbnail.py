"""A small copy of a picture, to be shown inside a page: made of its pixels alone, so nothing of the file remains."""

from __future__ import annotations

import base64
from io import BytesIO

from engine.text.images import decode
from engine.types import EncodedImage

SIDE = 480  # pixels


def thumbnail_url(image: EncodedImage) -> str:
    """Return a JPEG of at most SIDE pixels a side as a data URL. Raises ValidationError for a damaged picture."""
    small = decode(image)
    small.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
