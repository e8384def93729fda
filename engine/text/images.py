"""Reads the images that clients send: `check_header` reads the header, `decode` the pixels.

`check_header` is cheap and runs before a request is admitted; `decode` is expensive and runs after admission. Their
errors name the field `image`. The format is detected by content; the Pillow plugins are called directly, so no other
format is tried, and Pillow's own limits (which warn through global state) are not reached before ours. `decode` is for
the processes of `engine.text.image_workers`, and for images that are trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image

from engine.errors import Message, PayloadTooLarge, UnsupportedMediaType, ValidationError
from engine.text import avif_header, colour, image_header
from engine.text.formats import avif, bmp, gif, ico, jpeg, png, webp
from engine.text.formats.layer import Layer
from engine.text.image_header import Size
from engine.types import EncodedImage

MAX_IMAGE_BYTES = 16 * 1024 * 1024
MAX_IMAGE_PIXELS = 40_000_000
MAX_IMAGE_SIDE = 16_384
MAX_IMAGE_ASPECT = 200
MAX_IMAGES = 4  # of a request
MAX_IMAGES_BYTES = 17 * 1024 * 1024  # of a question of ours, together

EMPTY = Message("image_empty", "The image is empty.")
TOO_LARGE = Message("image_too_large", "The image is too large. Maximum size: {n} MiB", n=MAX_IMAGE_BYTES // 2**20)
TOO_MANY = Message("images_many", "A request may carry at most {n} images.", n=MAX_IMAGES)
TOO_LARGE_TOGETHER = Message(
    "images_too_large", "The images are too large together. Maximum size: {n} MiB", n=MAX_IMAGES_BYTES // 2**20
)
UNKNOWN_FORMAT = Message(
    "image_format", "The file is not a picture that can be read. Use PNG, JPEG, WebP, GIF, BMP, AVIF or ICO."
)
HEIC = Message("image_heic", "Pictures in HEIC cannot be read here. Save the picture as JPEG, or send it as AVIF.")
DAMAGED = Message("image_damaged", "The image is damaged or incomplete.")
NO_PIXELS = Message("image_no_pixels", "The image has no pixels.")
SIDE_TOO_LONG = Message("image_side", "The image is too wide or too high. Maximum side: {n} pixels", n=MAX_IMAGE_SIDE)
TOO_MANY_PIXELS = Message(
    "image_pixels", "The image has too many pixels. Maximum: {n} megapixels", n=MAX_IMAGE_PIXELS // 1_000_000
)
TOO_NARROW = Message("image_aspect", "The image is too narrow. Maximum aspect ratio: {n}", n=MAX_IMAGE_ASPECT)
# Everything that may be wrong with an image, for a page that checks one before it is sent.
PROBLEMS = (
    *(EMPTY, TOO_LARGE, TOO_MANY, TOO_LARGE_TOGETHER, UNKNOWN_FORMAT, HEIC, DAMAGED, NO_PIXELS),
    *(SIDE_TOO_LONG, TOO_MANY_PIXELS, TOO_NARROW),
)

TOO_SLOW = Message("image_slow", "The image takes too long to decode.")

# A progressive JPEG has about ten scans; each one more is another pass over all of its pixels for a few bytes.
MAX_SCANS = 100
STRIP = 256  # rows that are composed at once

Reader = Callable[[bytes], Size]
_DECODERS: dict[Reader, Callable[[bytes, Size], Layer]] = {
    image_header.read_png: png.decode,
    image_header.read_jpeg: jpeg.decode,
    image_header.read_webp: webp.decode,
    image_header.read_gif: gif.decode,
    image_header.read_bmp: bmp.decode,
    image_header.read_avif: avif.decode,
    image_header.read_ico: ico.decode,
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


@contextmanager
def one_of(number: int, count: int, param: str = "image") -> Iterator[None]:
    """Name the image that is being read in an error about it: by its field, and by its number where there are several.

    number: from 1; count: of the images of the request.
    """
    try:
        yield
    except (ValidationError, PayloadTooLarge, UnsupportedMediaType) as error:
        error.param = param
        if count > 1:
            error.message = _numbered(number, error.message)
            error.args = (error.message,)
        raise


def _numbered(number: int, problem: str) -> str:
    """Return what is wrong with an image, with its number; translated only as a whole."""
    if not isinstance(problem, Message):
        return f"Image {number}: {problem}"
    return Message("image_number", "Image {number}: {problem}", number=number, problem=problem)


def check_header(data: bytes) -> EncodedImage:
    """Return the image with its stored size (before any EXIF rotation), without decoding pixels.

    Raises ValidationError (empty, broken header, extreme aspect ratio), UnsupportedMediaType (not a supported format)
    and PayloadTooLarge (bytes, pixels or a side over the limit).
    """
    if not data:
        raise ValidationError(EMPTY, "image")
    if len(data) > MAX_IMAGE_BYTES:
        raise PayloadTooLarge(TOO_LARGE)
    _, size = _checked(data)
    return EncodedImage(data, *size)


def decode(encoded: EncodedImage) -> Image.Image:
    """Return the first frame in RGB as a browser shows it: in sRGB, upright, with transparency over white.

    Raises ValidationError if damaged, PayloadTooLarge as `check_header`.
    """
    reader, size = _checked(encoded.data)
    try:
        if reader is image_header.read_jpeg and jpeg.scans(encoded.data) > MAX_SCANS:
            raise ValidationError(TOO_SLOW, "image")
        layer = _DECODERS[reader](encoded.data, size)
        if layer.pixels.size != size:
            raise ValidationError(DAMAGED, "image")
        method = _UPRIGHT.get(layer.orientation)
        pixels = _over_white(colour.to_srgb(layer.pixels, layer.profile))
        return pixels if method is None else pixels.transpose(method)
    except (MemoryError, ValidationError):
        raise  # a lack of memory says nothing of the file
    except Exception as error:  # decoders raise many types for damaged files
        raise ValidationError(DAMAGED, "image") from error


def _checked(data: bytes) -> tuple[Reader, tuple[int, int]]:
    """Return what reads this kind of file, and the size that its header tells, within the limits."""
    reader = image_header.reader_for(data)
    if reader is None:
        raise UnsupportedMediaType(HEIC if avif_header.is_heic(data) else UNKNOWN_FORMAT)
    try:
        size = reader(data)
    except image_header.DamagedHeader as error:
        raise ValidationError(DAMAGED, "image") from error
    _check_size(*size)
    return reader, size


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ValidationError(NO_PIXELS, "image")
    if max(width, height) > MAX_IMAGE_SIDE:
        raise PayloadTooLarge(SIDE_TOO_LONG)
    if width * height > MAX_IMAGE_PIXELS:
        raise PayloadTooLarge(TOO_MANY_PIXELS)
    if max(width, height) > MAX_IMAGE_ASPECT * min(width, height):
        raise ValidationError(TOO_NARROW, "image")


def _over_white(layer: Image.Image) -> Image.Image:
    """Return an image in RGB or RGBA in RGB, where it is transparent over white."""
    if layer.mode == "RGB":
        return layer
    rgb = Image.new("RGB", layer.size)
    for top in range(0, layer.height, STRIP):  # in strips, since a whole ground takes as much memory as the image
        strip = layer.crop((0, top, layer.width, min(top + STRIP, layer.height)))
        ground = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(ground, strip).convert("RGB"), (0, top))
    return rgb
