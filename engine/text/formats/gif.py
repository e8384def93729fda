"""GIF (89a): the first frame, on a transparent screen."""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from engine.text.formats.layer import Damaged, Layer
from engine.text.image_header import Size, first_image_of_gif

END = b";"


def decode(data: bytes, size: Size) -> Layer:
    """Return the first frame. Raises Damaged, or what Pillow raises.

    The plugin fills the screen around a frame with a colour of the table, which browsers leave transparent; so it gets
    a file whose screen is the frame.
    """
    frame = first_image_of_gif(data)
    if frame.screen != size:
        raise Damaged
    screen = struct.pack("<HH", frame.width, frame.height)
    head = data[:6] + screen + data[10 : frame.colours_end]
    image = GifImageFile(BytesIO(head + frame.control + b"," + bytes(4) + screen + data[frame.start + 8 :] + END))
    image.load()
    pixels = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if frame.screen == pixels.size:
        return Layer(pixels)
    canvas = Image.new("RGBA", frame.screen)
    canvas.paste(pixels, (frame.left, frame.top))
    return Layer(canvas)
