"""PNG: what browsers show of transparency, metadata, colours, animations and damage. Compared with Chromium 150."""

import struct
import zlib

import pytest
from PIL import Image

from engine.errors import ValidationError
from engine.text.colour import gamma_profile
from tests.engine.text.formats.files import (
    GREEN,
    RED,
    SIZE,
    WHITE,
    chunk,
    corners,
    encoded,
    near,
    orientation,
    picture,
    png,
    shown,
    with_metadata,
)

PLAIN = encoded(picture(), "PNG")
PIXELS = PLAIN[33:-12]
AS_IT_IS = (SIZE, [RED, WHITE, WHITE, GREEN])
BLACK = (0, 0, 0)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_is_transparent(depth):
    """In every depth the key is a value of that depth; what else is grey stays."""
    most = (1 << depth) - 1
    key, other = (1, 0) if depth == 1 else (most // 3, most - 1)
    row = {16: struct.pack(">HH", key, other)}.get(depth) or (
        int(f"{key:0{depth}b}{other:0{depth}b}".ljust(8, "0"), 2).to_bytes() if depth < 8 else bytes((key, other))
    )
    image = shown(png(depth, 0, [row], chunk(b"tRNS", struct.pack(">H", key))))
    assert image.getpixel((0, 0)) == WHITE
    assert near([image.getpixel((1, 0))], [(255 * other // most,) * 3], 1)


def test_the_bits_of_a_key_beyond_the_depth_do_not_count():
    """As in browsers."""
    assert shown(png(4, 0, [b"\x30"], chunk(b"tRNS", b"\xff\xf3"))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(("depth", "scale"), [(8, 1), (16, 257)])
def test_one_colour_is_transparent(depth, scale):
    """With 8 and with 16 bits a channel."""
    form = ">3B" if depth == 8 else ">3H"
    key, other = [value * scale for value in RED], [value * scale for value in GREEN]
    row = struct.pack(form, *key) + struct.pack(form, *other)
    image = shown(png(depth, 2, [row], chunk(b"tRNS", struct.pack(">3H", *key))))
    assert (image.getpixel((0, 0)), image.getpixel((1, 0))) == (WHITE, GREEN)


def test_a_key_of_sixteen_bits_is_compared_whole():
    """A colour that differs only in its low bytes stays."""
    row = struct.pack(">6H", 100, 200, 300, 101, 200, 300)
    image = shown(png(16, 2, [row], chunk(b"tRNS", struct.pack(">3H", 100, 200, 300))))
    assert (image.getpixel((0, 0)), image.getpixel((1, 0))) == (WHITE, (0, 0, 1))


@pytest.mark.parametrize(
    ("colours", "metadata", "wanted"),
    [
        (3, [b"PLTE" + bytes(6), b"tRNS" + bytes(2)], WHITE),
        (3, [b"PLTE" + bytes(6), b"tRNS" + bytes(3)], BLACK),  # more than there are colours
        (3, [b"tRNS" + bytes(2), b"PLTE" + bytes(6)], BLACK),  # before the colours
        (0, [b"tRNS" + bytes(1)], BLACK),
        (0, [b"tRNS" + bytes(6)], BLACK),
    ],
    ids=["palette", "too-long", "too-early", "too-short", "of-another-kind"],
)
def test_transparency_that_does_not_fit_is_none(colours, metadata, wanted):
    """Browsers then show the colour itself."""
    data = png(8, colours, [bytes(1)], *(chunk(body[:4], body[4:]) for body in metadata))
    assert shown(data).getpixel((0, 0)) == wanted


def test_an_index_beyond_the_palette_is_its_last_colour():
    """Not black."""
    palette = bytes((1, 2, 3, *RED))
    assert shown(png(8, 3, [b"\x01\xc8"], chunk(b"PLTE", palette))).getpixel((1, 0)) == RED


HUGE = zlib.compress(bytes(20 * 2**20))


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"Comment\0\0" + HUGE)] * 5,
        [chunk(b"iTXt", b"Comment\0\1\0\0\0" + HUGE)],
        [chunk(b"iCCP", b"name\0\0" + HUGE)],
        [chunk(b"iCCP", b"name\0\0nothing")],
        [chunk(b"iCCP", b"name")],
        [chunk(b"tEXt", b"a\0b", checksum=0)],
        [chunk(b"iCCP", b"a\0\0b", checksum=0)],
        [chunk(b"tRNS", struct.pack(">3H", *RED), checksum=0)],
        [chunk(b"gAMA", struct.pack(">I", 100_000), checksum=0)],
        [chunk(b"gAMA", bytes(4)), chunk(b"cHRM", bytes(32))],
        [chunk(b"gAMA", struct.pack(">I", 1))[:-5] + b"0" * 5],
        [chunk(b"acTL", bytes(8))],
        [chunk(b"acTL", b"\x80\0\0\1\0\0\0\0")],
        [chunk(b"aaaa", bytes(100_000))],
    ],
)
def test_metadata_neither_stop_a_picture_nor_change_it(chunks):
    """Whatever their length and however wrong they are."""
    assert corners(with_metadata(PLAIN, *chunks)) == AS_IT_IS


def damaged_checksum(data):
    stored = zlib.decompress(PIXELS[8:-4])
    wrong = zlib.compress(stored)[:-4] + b"oops"
    return data[:33] + chunk(b"IDAT", wrong) + data[-12:]


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:-12],
        PLAIN[:-1],
        PLAIN[:33] + PIXELS[:-3],
        PLAIN[:33] + PIXELS[:-8],
        PLAIN[:33] + PIXELS[:-4] + b"oops" + PLAIN[-12:],
        damaged_checksum(PLAIN),
        PLAIN + b"more" * 100,
        PLAIN[:33] + chunk(b"IDAT", PIXELS[8:30]) + chunk(b"IDAT", PIXELS[30:-4]) + PLAIN[-12:],
    ],
    ids=["no-end", "cut-end", "cut-checksum", "no-checksums", "chunk", "stream", "trailing", "two-chunks"],
)
def test_pixels_that_are_all_there_are_shown(data):
    """Whatever is missing or wrong behind them, and however they are cut into chunks."""
    assert corners(data) == AS_IT_IS


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:33] + PIXELS[: len(PIXELS) // 2],
        PLAIN[:33] + chunk(b"IDAT", PIXELS[8:30]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", PIXELS[30:-4]),
        PLAIN[:33] + chunk(b"IDAT", b"") + PLAIN[-12:],
        PLAIN[:33] + chunk(b"IDAT", b"x" * 100) + PLAIN[-12:],
        PLAIN[:29] + b"oops" + PLAIN[33:],
        with_metadata(PLAIN, chunk(b"NEED", b"ed")),
        png(8, 3, [bytes(1)]),
        png(8, 3, [bytes(1)], chunk(b"PLTE", bytes(6), checksum=0)),
        PLAIN[:33] + PLAIN[-12:],
    ],
    ids=["half", "parted", "empty", "no-stream", "header", "necessary", "no-palette", "palette", "no-pixels"],
)
def test_pixels_that_are_not_all_there_are_refused(data):
    """Rather than a picture of which a part is missing."""
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(data)


def gamma(value):
    return chunk(b"gAMA", struct.pack(">I", value))


def chromaticities(*values):
    return chunk(b"cHRM", struct.pack(">8I", *values))


SRGB = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
SWAPPED = (31_270, 32_900, 30_000, 60_000, 64_000, 33_000, 15_000, 6_000)
LIGHT = [(229, 96, 133), WHITE, WHITE, (79, 183, 133)]
EXCHANGED = [(24, 201, 57), WHITE, WHITE, (121, 12, 57)]
STANDARD = [RED, WHITE, WHITE, GREEN]
PROFILE = gamma_profile(1.0)


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([gamma(100_000)], LIGHT),
        ([gamma(100_000), chromaticities(*SRGB)], LIGHT),
        ([gamma(45_455), chromaticities(*SWAPPED)], EXCHANGED),
        ([chromaticities(*SWAPPED)], STANDARD),
        ([chunk(b"sRGB", b"\0"), gamma(100_000)], STANDARD),
        ([gamma(100_000), chunk(b"sRGB", b"\0")], STANDARD),
        ([chunk(b"sRGB", b"\x09"), gamma(100_000)], LIGHT),
        ([chunk(b"sRGB", b"\0\0"), gamma(100_000)], LIGHT),
        ([chunk(b"iCCP", b"a\0\0" + zlib.compress(b"no profile" * 20)), gamma(100_000)], LIGHT),
        ([chunk(b"iCCP", b"a\0\1" + zlib.compress(PROFILE))], STANDARD),
        ([chunk(b"iCCP", b"\0\0" + zlib.compress(PROFILE))], STANDARD),
        ([chunk(b"iCCP", b"a" * 80 + b"\0\0" + zlib.compress(PROFILE))], STANDARD),
        ([chunk(b"iCCP", b"a\0\0" + zlib.compress(PROFILE)), chunk(b"sRGB", b"\0")], LIGHT),
        ([chunk(b"cICP", bytes((1, 8, 0, 0)))], STANDARD),
        ([gamma(45_455), gamma(100_000)], [(201, 24, 57), WHITE, WHITE, (12, 121, 57)]),
        ([gamma(1_000_000)], [(252, 232, 239), WHITE, WHITE, (228, 247, 239)]),
        ([chunk(b"cICP", bytes((1, 13, 0, 1))), gamma(100_000)], STANDARD),
        ([chunk(b"cICP", bytes((1, 8, 0, 1)))], LIGHT),
        ([chunk(b"cICP", bytes((12, 13, 0, 1)))], [(218, 0, 54), WHITE, WHITE, (0, 122, 52)]),
        ([chunk(b"cICP", bytes((250, 13, 0, 1))), gamma(100_000)], LIGHT),
    ],
)
def test_colours_are_converted_as_their_chunks_say(chunks, wanted):
    """Code points before sRGB before a gamma, whose chromaticities count only with it."""
    assert near(corners(with_metadata(PLAIN, *chunks))[1], wanted)


@pytest.mark.parametrize("place", ["before", "after"])
def test_metadata_behind_the_pixels_do_not_count(place):
    """Neither a gamma nor an orientation."""
    chunks = [gamma(100_000), chunk(b"eXIf", orientation(6).removeprefix(b"Exif\0\0"))]
    if place == "after":
        assert corners(PLAIN[:-12] + b"".join(chunks) + PLAIN[-12:]) == AS_IT_IS
    else:
        size, colours = corners(with_metadata(PLAIN, *chunks))
        assert size == SIZE[::-1]
        assert near(colours, [WHITE, LIGHT[0], LIGHT[3], WHITE])


def test_an_orientation_in_other_metadata_does_not_count():
    """XMP is for programs that edit."""
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    assert corners(with_metadata(PLAIN, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))) == AS_IT_IS


def frame(number, size, place=(0, 0)):
    """Return the control of a frame."""
    return chunk(b"fcTL", struct.pack(">5I2H2B", number, *size, *place, 1, 10, 0, 0))


def stored(image):
    return encoded(image, "PNG", compress_level=1)[41:-16]


ANIMATED = chunk(b"acTL", struct.pack(">II", 2, 0))
BLUE = Image.new("RGB", SIZE, "blue")


def test_the_first_frame_may_not_be_the_picture_for_older_programs():
    """Without a control before it, that one is no frame; with one it is the first."""
    later = frame(0, SIZE) + chunk(b"fdAT", bytes(4) + stored(BLUE)) + frame(1, SIZE) + chunk(b"fdAT", b"no pixels")
    parts = ANIMATED, PIXELS, later
    assert shown(PLAIN[:33] + b"".join(parts) + PLAIN[-12:]).getpixel((1, 1)) == (0, 0, 255)
    assert corners(PLAIN[:33] + ANIMATED + frame(9, SIZE) + PIXELS + later + PLAIN[-12:]) == AS_IT_IS


def test_a_frame_may_be_smaller_than_the_picture():
    """What it does not cover is transparent."""
    small = chunk(b"fdAT", bytes(4) + stored(Image.new("RGB", (10, 10), "blue")))
    image = shown(PLAIN[:33] + ANIMATED + PIXELS + frame(0, (10, 10), (5, 6)) + small + PLAIN[-12:])
    assert image.size == SIZE
    assert [image.getpixel(at) for at in ((4, 6), (15, 15))] == [WHITE, WHITE]
    assert [image.getpixel(at) for at in ((5, 6), (14, 15))] == [(0, 0, 255)] * 2


@pytest.mark.parametrize(
    "control",
    [b"", frame(0, (10, 10), (55, 0)), frame(0, (0, 10)), frame(0, (2**31, 2**31)), chunk(b"fcTL", b"short")],
)
def test_a_frame_that_is_none_leaves_the_picture(control):
    """Without a control, or outside."""
    pixels = chunk(b"fdAT", bytes(4) + stored(BLUE))
    assert corners(PLAIN[:33] + ANIMATED + PIXELS + control + pixels + PLAIN[-12:]) == AS_IT_IS
