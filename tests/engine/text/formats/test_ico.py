"""ICO and CUR: which of its pictures an icon shows, and what its bitmaps hide. Compared with Chromium 150."""

import struct

import pytest
from PIL import Image

from engine.errors import ServiceError, ValidationError
from engine.text.images import check_header
from tests.engine.text.formats.files import GREEN, RED, WHITE, encoded, icon, shown

BLUE = (0, 0, 255)


def filled(size, colour):
    return encoded(Image.new("RGB", size, colour), "PNG")


def entry(size, colour, bits=32, colours=0):
    return (*size, colours, bits, filled(size, colour))


@pytest.mark.parametrize(
    ("entries", "size", "colour"),
    [
        ([entry((16, 16), RED), entry((40, 40), GREEN, 8), entry((32, 32), BLUE)], (40, 40), GREEN),
        ([entry((16, 16), RED, 8), entry((16, 16), GREEN), entry((16, 16), BLUE, 24)], (16, 16), GREEN),
        ([entry((16, 16), RED), entry((16, 16), GREEN)], (16, 16), RED),
        ([entry((16, 16), RED, 0, 2), entry((16, 16), GREEN, 0, 0)], (16, 16), GREEN),
        ([entry((40, 10), RED), entry((20, 19), GREEN)], (40, 10), RED),
        ([entry((32, 32), RED), entry((256, 256), GREEN)], (256, 256), GREEN),
    ],
    ids=["largest", "most-bits", "first", "most-colours", "area", "256"],
)
def test_the_best_picture_is_shown(entries, size, colour):
    """The largest, of equal ones the one with most colours; its size is known before it is decoded."""
    header = check_header(icon(*entries))
    image = shown(icon(*entries))
    assert (header.width, header.height) == image.size == size
    assert image.getpixel((0, 0)) == colour


def bitmap(depth, rows, mask=b"", height=None, palette=b""):
    """Return a bitmap without a file's header, 2 pixels wide and high."""
    header = struct.pack("<IiiHHIIiiII", 40, 2, height or 4, 1, depth, 0, 0, 0, 0, len(palette) // 4, 0)
    return header + palette + rows + mask


COLOURS = bytes((*RED[::-1], *GREEN[::-1], 0, 0)) * 2
MASK = b"\x80\0\0\0" * 2
CASES = {
    "mask": (24, bitmap(24, COLOURS, MASK), [WHITE, GREEN] * 2),
    "no mask": (24, bitmap(24, COLOURS), [RED, GREEN] * 2),
    "from the top": (24, bitmap(24, COLOURS, MASK, height=-4), [WHITE, GREEN] * 2),
    "alpha": (32, bitmap(32, bytes((*RED[::-1], 0, *GREEN[::-1], 255)) * 2, MASK), [WHITE, GREEN] * 2),
    "alpha, not the mask": (32, bitmap(32, bytes((*RED[::-1], 255, *GREEN[::-1], 0)) * 2, MASK), [RED, WHITE] * 2),
    "no alpha": (32, bitmap(32, bytes((*RED[::-1], 0, *GREEN[::-1], 0)) * 2, MASK), [WHITE, GREEN] * 2),
    "no alpha, no mask": (32, bitmap(32, bytes((*RED[::-1], 0, *GREEN[::-1], 0)) * 2), [RED, GREEN] * 2),
    "two colours": (
        1,
        bitmap(1, b"\x40\0\0\0" * 2, bytes(8), palette=bytes((*RED[::-1], 0, *GREEN[::-1], 0))),
        [RED, GREEN] * 2,
    ),
}


@pytest.mark.parametrize("kind", [1, 2], ids=["icon", "cursor"])
@pytest.mark.parametrize("name", CASES)
def test_bitmaps(name, kind):
    """Hidden by their alpha if they have any, by their mask if not."""
    bits, data, wanted = CASES[name]
    image = shown(icon((2, 2, 0, bits, data), kind=kind))
    assert [image.getpixel((x, y)) for y in range(2) for x in range(2)] == wanted


def test_a_wrong_length_does_not_count():
    """Many programs write one; the picture tells its own."""
    data = bytearray(icon((2, 2, 0, 24, bitmap(24, COLOURS, MASK))))
    data[14:18] = struct.pack("<I", 8)
    assert shown(bytes(data)).getpixel((1, 0)) == GREEN


@pytest.mark.parametrize(
    "data",
    [
        icon((16, 16, 0, 32, filled((40, 40), RED))),
        icon((48, 48, 0, 32, filled((40, 40), RED))),
        icon((64, 64, 0, 32, b"junk" * 20), entry((32, 32), GREEN)),
        icon((2, 2, 0, 24, bitmap(24, COLOURS[:8]))),
        icon((2, 2, 0, 24, b"")),
        icon((2, 2, 0, 24, encoded(Image.new("RGB", (2, 2)), "BMP"))),
        struct.pack("<HHH", 0, 1, 3) + icon(entry((16, 16), RED))[6:22],
        struct.pack("<HHH", 0, 1, 1),
    ],
)
def test_a_picture_that_is_not_what_its_entry_tells_is_refused(data):
    """Browsers show nothing then."""
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(data)


def test_what_only_begins_like_an_icon_is_none():
    """Uncompressed TGA begins like a cursor."""
    with pytest.raises(ServiceError, match="cannot be read|not a picture"):
        check_header(b"\0\0\2\0\0\0\0\0\0\0\0\0\x10\0\x10\0\x18\0" + bytes(768))
