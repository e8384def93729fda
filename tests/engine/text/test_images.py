"""Pictures: what the header check refuses, and what decoding makes of every kind that it lets through."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from engine.errors import PayloadTooLarge, UnsupportedMediaType, ValidationError
from engine.text import images
from engine.text.images import check_header, decode
from engine.types import EncodedImage

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_reads_each_format_by_content(kind: str) -> None:
    """Five formats, known by what is in them; the size comes from the header."""
    picture = check_header(encoded(Image.new("RGB", (40, 30), RED), kind))
    assert (picture.width, picture.height) == (40, 30)
    pixels = decode(picture)
    assert (pixels.mode, pixels.size) == ("RGB", (40, 30))
    assert near(pixels.getpixel((20, 15)), RED)


@pytest.mark.parametrize(
    "data",
    [b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"II*\x00" + bytes(40), b"\x89PNG"],
    ids=["text", "svg", "pdf", "tiff", "bare-signature"],
)
def test_refuses_what_is_no_picture(data: bytes) -> None:
    """Text called .png, an SVG, a PDF, a TIFF: unsupported, whatever the name says."""
    with pytest.raises(UnsupportedMediaType):
        check_header(data)


def test_refuses_an_empty_file() -> None:
    """Nothing at all is a mistake in the request."""
    with pytest.raises(ValidationError, match="empty"):
        check_header(b"")


@pytest.mark.parametrize("signature", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"])
def test_refuses_a_header_that_breaks_off(signature: bytes) -> None:
    """A signature with nothing behind it is a damaged picture, not a server error."""
    with pytest.raises(ValidationError, match="damaged"):
        check_header(signature)


def test_refuses_too_many_bytes() -> None:
    """16 MiB is the limit, checked before the content is looked at."""
    with pytest.raises(PayloadTooLarge, match="16 MiB"):
        check_header(b"\x89PNG\r\n\x1a\n" + bytes(images.MAX_IMAGE_BYTES))


@pytest.mark.parametrize("size", [(10_000, 4_001), (16_384, 16_384)], ids=["just-over", "bomb"])
def test_refuses_too_many_pixels_from_the_header_alone(size: tuple[int, int]) -> None:
    """A bomb is told by its header; its pixels are never made."""
    with pytest.raises(PayloadTooLarge, match="40 megapixels"):
        check_header(png_claiming(*size))


def test_takes_exactly_forty_megapixels() -> None:
    """The limit itself is allowed."""
    assert check_header(png_claiming(10_000, 4_000)).width == 10_000


def test_refuses_a_side_over_the_limit() -> None:
    """16,384 pixels is the longest side."""
    assert check_header(png_claiming(16_384, 100)).width == 16_384
    with pytest.raises(PayloadTooLarge, match="16384"):
        check_header(png_claiming(16_385, 100))


def test_refuses_an_extreme_shape() -> None:
    """200 to 1 is the narrowest shape, either way round."""
    assert check_header(png_claiming(200, 1)).height == 1
    for size in ((201, 1), (1, 201)):
        with pytest.raises(ValidationError, match="aspect"):
            check_header(png_claiming(*size))


def test_refuses_a_picture_without_pixels() -> None:
    """A side of zero is a mistake in the request."""
    empty_gif = b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x02\x4c\x01\x00;"
    for data in (png_claiming(0, 5), empty_gif):
        with pytest.raises(ValidationError):
            check_header(data)


@pytest.mark.parametrize("frame", [(13_000, 13_000), (60_000, 60_000)], ids=["pillow-warns", "pillow-raises"])
def test_refuses_a_gif_whose_frame_outgrows_its_screen(frame: tuple[int, int]) -> None:
    """A GIF may claim a small screen and a huge frame; it is refused all the same."""
    screen = struct.pack("<HHBBB", 10, 10, 0, 0, 0)
    descriptor = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0)
    with pytest.raises(PayloadTooLarge):
        check_header(b"GIF89a" + screen + descriptor + b"\x02\x02\x4c\x01\x00;")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_picture_is_told_from_a_whole_one(kind: str) -> None:
    """A picture cut in the middle is refused, by the header check or by the decoder, and always as the client's."""
    noise = Image.frombytes("RGB", (64, 64), random.Random(3).randbytes(64 * 64 * 3))
    data = encoded(noise, kind)
    with pytest.raises(ValidationError, match="damaged"):
        decode(check_header(data[: len(data) // 2]))


def test_damage_anywhere_is_the_clients_error_or_harmless() -> None:
    """Whatever bytes are broken, the outcome is a picture or a typed refusal, never another exception."""
    dice = random.Random(7)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = encoded(Image.new("RGB", (32, 32), RED), kind)
        for _ in range(120):
            broken = bytearray(whole)
            for _ in range(dice.randint(1, 6)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            try:
                assert decode(check_header(bytes(broken))).mode == "RGB"
            except (ValidationError, PayloadTooLarge, UnsupportedMediaType):
                continue


@pytest.mark.parametrize(
    ("mode", "colour", "kind"),
    [("P", 0, "PNG"), ("P", 0, "GIF"), ("L", 255, "PNG"), ("1", 1, "PNG"), ("CMYK", (0, 0, 0, 0), "JPEG")],
)
def test_becomes_rgb_whatever_its_mode(mode: str, colour: int | tuple[int, ...], kind: str) -> None:
    """Palette, grey, bilevel and CMYK pictures come out as RGB with their colours kept."""
    image = Image.new(mode, (20, 20), colour)
    if mode == "P":
        image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    pixels = decode(check_header(encoded(image, kind)))
    assert pixels.mode == "RGB"
    assert near(pixels.getpixel((10, 10)), WHITE)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """A 16-bit grey of one half stays one half."""
    image = Image.frombytes("I;16", (8, 8), struct.pack("<H", 32_768) * 64)
    assert near(decode(check_header(encoded(image))).getpixel((4, 4)), (128, 128, 128), 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA-like", "tRNS"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    """What is transparent looks white, however the file says so."""
    if mode == "RGBA":
        data = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    elif mode == "LA":
        data = encoded(Image.new("LA", (8, 8), (0, 0)))
    elif mode == "PA-like":
        palette = Image.new("P", (8, 8), 3)
        data = encoded(palette, "GIF", transparency=3)
    else:
        data = encoded(Image.new("RGB", (8, 8), (10, 20, 30)), transparency=(10, 20, 30))
    assert decode(check_header(data)).getpixel((4, 4)) == WHITE


def test_half_transparent_red_is_pink() -> None:
    """Alpha is blended, not cut off."""
    pixels = decode(check_header(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))))
    assert near(pixels.getpixel((4, 4)), (255, 127, 127))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    """Of a moving picture only the first frame counts."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert near(decode(check_header(data)).getpixel((8, 8)), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    """Whichever way the camera was held, the picture stands upright."""
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste(RED, (0, 0, 16, 16))  # the mark belongs top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(check_header(encoded(stored, "JPEG", exif=exif, quality=95)))
    assert pixels.size == (48, 32)
    assert near(pixels.getpixel((4, 4)), RED, 20)
    assert near(pixels.getpixel((40, 24)), WHITE, 20)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"MM\0*\0\0\0\x08\xff\xff\x01\x12garbage", b"not a directory"])
def test_damaged_exif_does_not_spoil_a_good_picture(exif: bytes) -> None:
    """EXIF data that cannot be read is ignored."""
    data = encoded(Image.new("RGB", (16, 16), RED), "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(check_header(data)).size == (16, 16)


def test_decode_checks_the_size_again() -> None:
    """A size that was never checked at the edge is still refused before its pixels are made."""
    with pytest.raises(PayloadTooLarge):
        decode(EncodedImage(png_claiming(16_000, 16_000), 1, 1))
