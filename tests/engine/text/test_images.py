"""Images: what the header check rejects, and how every accepted format and mode is decoded."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from engine.errors import PayloadTooLarge, UnsupportedMediaType, ValidationError
from engine.text import images
from engine.text.formats import png
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
    """Return a PNG of a few bytes whose header claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 6) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF"])
def test_reads_each_format_by_content(kind: str) -> None:
    """Detected by content; the size comes from the header. test_ico has the seventh."""
    image = check_header(encoded(Image.new("RGB", (40, 30), RED), kind))
    assert (image.width, image.height) == (40, 30)
    pixels = decode(image)
    assert (pixels.mode, pixels.size) == ("RGB", (40, 30))
    assert near(pixels.getpixel((20, 15)), RED)


@pytest.mark.parametrize(
    "data",
    [b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"II*\x00" + bytes(40), b"\x89PNG"],
    ids=["text", "svg", "pdf", "tiff", "bare-signature"],
)
def test_rejects_other_formats(data: bytes) -> None:
    """Text, SVG, PDF and TIFF are not supported."""
    with pytest.raises(UnsupportedMediaType):
        check_header(data)


def test_heic_is_rejected_by_its_name() -> None:
    """Phones store it, so the message says what to do."""
    with pytest.raises(UnsupportedMediaType, match="HEIC"):
        check_header(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))


def test_rejects_an_empty_file() -> None:
    """An empty file is an error of the client."""
    with pytest.raises(ValidationError, match="empty"):
        check_header(b"")


@pytest.mark.parametrize("signature", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"])
def test_rejects_a_truncated_header(signature: bytes) -> None:
    """A signature alone is a damaged image, not a server error."""
    with pytest.raises(ValidationError, match="damaged"):
        check_header(signature)


def test_rejects_too_many_bytes() -> None:
    """The limit of 16 MiB is checked before the content."""
    with pytest.raises(PayloadTooLarge, match="16 MiB"):
        check_header(b"\x89PNG\r\n\x1a\n" + bytes(images.MAX_IMAGE_BYTES))


@pytest.mark.parametrize("size", [(10_000, 4_001), (16_384, 16_384)], ids=["just-over", "bomb"])
def test_rejects_too_many_pixels_from_the_header_alone(size: tuple[int, int]) -> None:
    """A decompression bomb is detected by its header; its pixels are not decoded."""
    with pytest.raises(PayloadTooLarge, match="40 megapixels"):
        check_header(png_claiming(*size))


def test_accepts_exactly_forty_megapixels() -> None:
    """The limit itself is allowed."""
    assert check_header(png_claiming(10_000, 4_000)).width == 10_000


def test_rejects_a_side_over_the_limit() -> None:
    """16,384 pixels is the longest side."""
    assert check_header(png_claiming(16_384, 100)).width == 16_384
    with pytest.raises(PayloadTooLarge, match="16384"):
        check_header(png_claiming(16_385, 100))


def test_rejects_an_extreme_aspect_ratio() -> None:
    """200 to 1 is the limit, in both orientations."""
    assert check_header(png_claiming(200, 1)).height == 1
    for size in ((201, 1), (1, 201)):
        with pytest.raises(ValidationError, match="aspect"):
            check_header(png_claiming(*size))


def test_rejects_an_image_without_pixels() -> None:
    """A side of zero is an error of the client."""
    empty_gif = b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x02\x4c\x01\x00;"
    for data in (png_claiming(0, 5), empty_gif):
        with pytest.raises(ValidationError):
            check_header(data)


@pytest.mark.parametrize("frame", [(13_000, 13_000), (60_000, 60_000)], ids=["pillow-warns", "pillow-raises"])
def test_rejects_a_gif_with_a_frame_larger_than_its_screen(frame: tuple[int, int]) -> None:
    """A GIF can claim a small screen and a huge frame; it is rejected."""
    screen = struct.pack("<HHBBB", 10, 10, 0, 0, 0)
    descriptor = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0)
    with pytest.raises(PayloadTooLarge):
        check_header(b"GIF89a" + screen + descriptor + b"\x02\x02\x4c\x01\x00;")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF"])
def test_rejects_a_truncated_image(kind: str) -> None:
    """An image cut in the middle is an error of the client, in the header check or in the decoder."""
    noise = Image.frombytes("RGB", (64, 64), random.Random(3).randbytes(64 * 64 * 3))
    data = encoded(noise, kind)
    with pytest.raises(ValidationError, match="damaged"):
        decode(check_header(data[: len(data) // 2]))


def test_damaged_bytes_are_an_error_of_the_client_or_harmless() -> None:
    """With any damaged bytes the result is an image or one of the declared errors, never another exception."""
    rng = random.Random(7)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "ICO"):
        whole = encoded(Image.new("RGB", (32, 32), RED), kind)
        for _ in range(120):
            broken = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            try:
                assert decode(check_header(bytes(broken))).mode == "RGB"
            except (ValidationError, PayloadTooLarge, UnsupportedMediaType):
                continue


@pytest.mark.parametrize(
    ("mode", "colour", "kind"),
    [("P", 0, "PNG"), ("P", 0, "GIF"), ("L", 255, "PNG"), ("1", 1, "PNG"), ("CMYK", (0, 0, 0, 0), "JPEG")],
)
def test_every_mode_is_converted_to_rgb(mode: str, colour: int | tuple[int, ...], kind: str) -> None:
    """Palette, grey, bilevel and CMYK images are converted to RGB with the same colours."""
    image = Image.new(mode, (20, 20), colour)
    if mode == "P":
        image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    pixels = decode(check_header(encoded(image, kind)))
    assert pixels.mode == "RGB"
    assert near(pixels.getpixel((10, 10)), WHITE)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """A 16-bit grey of 50% stays 50%."""
    image = Image.frombytes("I;16", (8, 8), struct.pack("<H", 32_768) * 64)
    assert near(decode(check_header(encoded(image))).getpixel((4, 4)), (128, 128, 128), 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA-like", "tRNS"])
def test_transparency_is_composited_over_white(mode: str) -> None:
    """Transparent pixels are white, in every encoding of transparency."""
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
    """Alpha is blended, not thresholded."""
    pixels = decode(check_header(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))))
    assert near(pixels.getpixel((4, 4)), (255, 127, 127))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    """Only the first frame of an animation is used."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert near(decode(check_header(data)).getpixel((8, 8)), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    """In every EXIF orientation the image is returned upright."""
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
def test_damaged_exif_data_is_ignored(exif: bytes) -> None:
    """The image itself is decoded."""
    data = encoded(Image.new("RGB", (16, 16), RED), "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(check_header(data)).size == (16, 16)


def test_decode_checks_the_size_again() -> None:
    """A size that was not checked before is rejected before its pixels are decoded."""
    with pytest.raises(PayloadTooLarge):
        decode(EncodedImage(png_claiming(16_000, 16_000), 1, 1))


def test_a_jpeg_of_too_many_scans_is_rejected_before_it_is_decoded():
    """Each scan is another pass over all pixels for a few bytes; real files have about ten."""
    data = encoded(Image.new("RGB", (64, 64), RED), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(check_header(data[:-2] + last * 20 + data[-2:])).size == (64, 64)
    with pytest.raises(ValidationError, match="too long"):
        decode(check_header(data[:-2] + last * images.MAX_SCANS + data[-2:]))


@pytest.mark.parametrize("size", [(7, 700), (300, 257), (9, 256)])
def test_transparency_is_the_same_in_every_strip(size):
    """Images are composed in strips, which nobody can see."""
    layer = Image.frombytes("RGBA", size, random.Random(5).randbytes(4 * size[0] * size[1]))
    whole = Image.alpha_composite(Image.new("RGBA", size, "white"), layer).convert("RGB")
    assert decode(check_header(encoded(layer))).tobytes() == whole.tobytes()


def test_a_lack_of_memory_says_nothing_of_the_file(monkeypatch):
    """Wherever it shows, it is not told as damage."""

    def fail(*args):
        raise MemoryError

    image = check_header(encoded(Image.new("RGBA", (8, 8)), exif=b"Exif\0\0"))
    for owner, name in ((png, "BytesIO"), (images, "_over_white"), (images.colour, "to_srgb")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(MemoryError):
                decode(image)
