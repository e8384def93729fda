"""Reads the images that clients send: `check_header` reads the header, `decode` the pixels.

`check_header` is cheap and runs before a request is admitted; `decode` is expensive and runs after admission. Their
errors name the field `image`. The format is detected by content; the Pillow plugins are called directly, so no other
format is tried, and Pillow's own limits (which warn through global state) are not reached before ours. `decode` is for
the processes of `engine.text.image_workers`, and for images that are trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from engine.errors import Message, PayloadTooLarge, UnsupportedMediaType, ValidationError
from engine.text import image_header
from engine.types import EncodedImage

MAX_IMAGE_BYTES = 16 * 1024 * 1024
MAX_IMAGE_PIXELS = 40_000_000
MAX_IMAGE_SIDE = 16_384
MAX_IMAGE_ASPECT = 200

EMPTY = Message("image_empty", "The image is empty.")
TOO_LARGE = Message("image_too_large", "The image is too large. Maximum size: {n} MiB", n=MAX_IMAGE_BYTES // 2**20)
UNKNOWN_FORMAT = Message("image_format", "The file is not a picture that can be read. Use PNG, JPEG, WebP, GIF or BMP.")
DAMAGED = Message("image_damaged", "The image is damaged or incomplete.")
NO_PIXELS = Message("image_no_pixels", "The image has no pixels.")
SIDE_TOO_LONG = Message("image_side", "The image is too wide or too high. Maximum side: {n} pixels", n=MAX_IMAGE_SIDE)
TOO_MANY_PIXELS = Message(
    "image_pixels", "The image has too many pixels. Maximum: {n} megapixels", n=MAX_IMAGE_PIXELS // 1_000_000
)
TOO_NARROW = Message("image_aspect", "The image is too narrow. Maximum aspect ratio: {n}", n=MAX_IMAGE_ASPECT)
# Everything that may be wrong with an image, for a page that checks one before it is sent.
PROBLEMS = (EMPTY, TOO_LARGE, UNKNOWN_FORMAT, DAMAGED, NO_PIXELS, SIDE_TOO_LONG, TOO_MANY_PIXELS, TOO_NARROW)

TOO_SLOW = Message("image_slow", "The image takes too long to decode.")

# A progressive JPEG has about ten scans; each one more is another pass over all of its pixels for a few bytes.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"
STRIP = 256  # rows that are composed at once

Reader = Callable[[bytes], tuple[int, int]]
_PLUGINS: dict[Reader, Callable[[BytesIO], ImageFile]] = {
    image_header.read_png: PngImageFile,
    image_header.read_jpeg: JpegImageFile,
    image_header.read_webp: WebPImageFile,
    image_header.read_gif: GifImageFile,
    image_header.read_bmp: BmpImageFile,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_header(data: bytes) -> EncodedImage:
    """Return the image with its stored size (before any EXIF rotation), without decoding pixels.

    Raises ValidationError (empty, broken header, extreme aspect ratio), UnsupportedMediaType (not a supported format)
    and PayloadTooLarge (bytes, pixels or a side over the limit).
    """
    if not data:
        raise ValidationError(EMPTY, "image")
    if len(data) > MAX_IMAGE_BYTES:
        raise PayloadTooLarge(TOO_LARGE)
    try:
        width, height = _reader(data)(data)
    except image_header.Damaged as error:
        raise ValidationError(DAMAGED, "image") from error
    _check_size(width, height)
    return EncodedImage(data, width, height)


def decode(encoded: EncodedImage) -> Image.Image:
    """Return the first frame in RGB, upright, with transparency over white.

    Raises ValidationError if damaged, PayloadTooLarge as `check_header`.
    """
    with _open(encoded.data) as image:
        _check_size(*image.size)
        try:
            image.load()
            return _upright(_to_rgb(image), image)
        except MemoryError:
            raise  # says nothing of the file
        except Exception as error:  # decoders raise many types for damaged files
            raise ValidationError(DAMAGED, "image") from error


def _reader(data: bytes) -> Reader:
    reader = image_header.reader_for(data)
    if reader is None:
        raise UnsupportedMediaType(UNKNOWN_FORMAT)
    return reader


def _open(data: bytes) -> ImageFile:
    reader = _reader(data)
    if reader is image_header.read_jpeg and data.count(START_OF_SCAN) > MAX_SCANS:
        raise ValidationError(TOO_SLOW, "image")
    try:
        return _PLUGINS[reader](BytesIO(data))
    except MemoryError:
        raise  # says nothing of the file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PayloadTooLarge(TOO_MANY_PIXELS) from error
    except Exception as error:  # plugins raise many types for damaged files
        raise ValidationError(DAMAGED, "image") from error


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ValidationError(NO_PIXELS, "image")
    if max(width, height) > MAX_IMAGE_SIDE:
        raise PayloadTooLarge(SIDE_TOO_LONG)
    if width * height > MAX_IMAGE_PIXELS:
        raise PayloadTooLarge(TOO_MANY_PIXELS)
    if max(width, height) > MAX_IMAGE_ASPECT * min(width, height):
        raise ValidationError(TOO_NARROW, "image")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        # convert() would clip every value over 255 to white instead of scaling 16 bits to 8.
        return image.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):  # in strips, since a whole ground takes as much memory as the image
        strip = layer.crop((0, top, image.width, min(top + STRIP, image.height)))
        ground = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(ground, strip).convert("RGB"), (0, top))
    return rgb


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Rotate `pixels` by the EXIF orientation of `source`; damaged EXIF data is ignored."""
    try:
        orientation = source.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:
        return pixels
    method = _UPRIGHT.get(orientation)
    return pixels if method is None else pixels.transpose(method)
