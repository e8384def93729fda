"""BMP: every header, depth, mask and run. Compared with Chromium 150."""

import struct

import pytest

from engine.errors import ValidationError
from engine.text.images import check_header
from tests.engine.text.formats.files import GREEN, RED, WHITE, bmp, encoded, near, picture, shown

PALETTE = bytes((*RED[::-1], 0, *GREEN[::-1], 0))
CORE_PALETTE = bytes((*RED[::-1], *GREEN[::-1]))
SRGB_SPACE = b"BGRs"


def pixels(image):
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


@pytest.mark.parametrize("header", [12, 16, 40, 52, 56, 64, 108, 124])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 24])
def test_every_header_and_depth(header, depth):
    """The headers of Windows and of OS/2; the lowest row comes first."""
    if depth == 24:
        row = bytes((*RED[::-1], *GREEN[::-1])) + bytes(2)
        data = bmp((2, 1), 24, row, header)
    else:
        index = {1: 0b01000000, 2: 0b00010000, 4: 0x01}.get(depth)
        row = bytes([index, 0, 0, 0]) if index is not None else bytes([0, 1, 0, 0])
        data = bmp((2, 1), depth, row, header, palette=CORE_PALETTE if header == 12 else PALETTE, used=2)
    if header >= 108:
        data = data[:70] + SRGB_SPACE + data[74:]
    assert pixels(shown(data)) == [RED, GREEN]


def test_rows_may_come_from_the_top():
    """With a negative height."""
    rows = bytes((*RED[::-1], 0, *GREEN[::-1], 0))
    assert pixels(shown(bmp((1, 2), 24, rows))) == [GREEN, RED]
    assert pixels(shown(bmp((1, -2), 24, rows))) == [RED, GREEN]
    assert check_header(bmp((1, -2), 24, rows)).height == 2


def packed(masks, *colours):
    """Return the value of a pixel."""
    value = 0
    for mask, level in zip(masks, colours, strict=True):
        if mask:
            lowest = (mask & -mask).bit_length() - 1
            value |= round(level * (mask >> lowest) / 255) << lowest & mask
    return value


@pytest.mark.parametrize(
    ("depth", "masks"),
    [
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x1F, 0x7E0, 0xF800)),
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0xE000, 0x1F00, 0xF8)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0xFF000000, 0xFF0000, 0xFF00)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
        (32, (0xFE000000, 0x1FE0000, 0x1FC00)),
    ],
)
def test_channels_may_be_any_bits(depth, masks):
    """Of 16 or 32, within a byte or across; each is scaled to its whole range."""
    form = "<H" if depth == 16 else "<I"
    row = b"".join(struct.pack(form, packed(masks, *colour)) for colour in (RED, WHITE, GREEN, (0, 0, 0)))
    data = bmp((4, 1), depth, row, compression=3, masks=struct.pack("<3I", *masks))
    narrowest = min(mask.bit_count() for mask in masks)
    assert near(pixels(shown(data)), [RED, WHITE, GREEN, (0, 0, 0)], 2 + 128 // ((1 << narrowest) - 1))
    assert pixels(shown(data))[1] == WHITE


@pytest.mark.parametrize(("header", "compression"), [(40, 6), (56, 3), (108, 3), (124, 3), (124, 0)])
def test_alpha_counts_unless_it_is_zero_everywhere(header, compression):
    """Programs that know no alpha leave it zero."""
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    stored = struct.pack("<4I", *masks)
    space = SRGB_SPACE if header >= 108 else b""
    for alphas, wanted in (((255, 0), [RED, WHITE]), ((0, 0), [RED, GREEN])):
        values = [packed(masks, *colour, alpha) for colour, alpha in zip((RED, GREEN), alphas, strict=True)]
        data = bmp((2, 1), 32, struct.pack("<2I", *values), header, compression, stored + space)
        assert pixels(shown(data)) == wanted


def test_a_fourth_byte_without_a_mask_is_no_alpha():
    """Whatever it is."""
    assert pixels(shown(bmp((2, 1), 32, bytes((*RED[::-1], 0, *GREEN[::-1], 7))))) == [RED, GREEN]


@pytest.mark.parametrize(
    ("depth", "compression", "header", "runs", "wanted"),
    [
        (8, 1, 40, b"\x02\0\x01\x01\0\0\x03\x01\0\1", [GREEN, GREEN, GREEN, RED, RED, GREEN]),
        (8, 1, 40, b"\0\x03\0\1\0\0\0\0\x03\x01", [GREEN, GREEN, GREEN, RED, GREEN, RED]),
        (8, 1, 40, b"\x02\0\0\0\x01\x01\0\1", [GREEN, WHITE, WHITE, RED, RED, WHITE]),
        (8, 1, 40, b"\0\2\1\1\2\0\0\1", [WHITE, RED, RED, WHITE, WHITE, WHITE]),
        (8, 1, 40, b"\x09\0\0\0\x09\1\0\1", [GREEN, GREEN, GREEN, RED, RED, RED]),
        (4, 2, 40, b"\x03\x01\0\0\0\x03\x10\x10\0\1", [GREEN, RED, GREEN, RED, GREEN, RED]),
        (24, 4, 64, b"\x03" + bytes(RED[::-1]) + b"\0\0\x03" + bytes(GREEN[::-1]) + b"\0\1", [GREEN] * 3 + [RED] * 3),
    ],
    ids=["runs", "literal", "short", "delta", "too-long", "four-bits", "twenty-four-bits"],
)
def test_runs(depth, compression, header, runs, wanted):
    """What no run reaches is transparent, and the end mark may be missing."""
    palette = PALETTE if depth <= 8 else b""
    data = bmp((3, 2), depth, runs, header, compression, palette=palette, used=2)
    assert pixels(shown(data)) == wanted


@pytest.mark.parametrize("palette", [PALETTE * 150, PALETTE])
def test_palettes_of_any_length(palette):
    """Longer than the depth needs, or shorter: what is missing is black."""
    data = bmp((3, 1), 8, b"\0\1\xff\0", palette=palette, used=len(palette) // 4)
    assert pixels(shown(data)) == [RED, GREEN, (0, 0, 0) if palette == PALETTE else GREEN]


def test_an_array_of_bitmaps_shows_its_first():
    """As OS/2 wrote them."""
    plain = bmp((2, 1), 24, bytes((*RED[::-1], *GREEN[::-1], 0, 0)), offset=68)
    assert pixels(shown(b"BA" + bytes(12) + plain)) == [RED, GREEN]


def test_what_the_library_writes():
    """In each mode."""
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = picture(mode)
        assert shown(encoded(image, "BMP")).tobytes() == image.convert("RGB").tobytes()


def calibrated(gamma, corners, kind=0):
    """Return what follows the masks in a header of version 4."""
    return struct.pack("<I9i3I", kind, *(round(value * 2**30) for value in corners), *[round(gamma * 65_536)] * 3)


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        (calibrated(1.0, (0.64, 0.33, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79)), (229, 96, 133)),
        (calibrated(1.0, (0.3, 0.6, 0.1, 0.64, 0.33, 0.03, 0.15, 0.06, 0.79)), (96, 229, 133)),
        (calibrated(1.0, [0] * 9), RED),
        (calibrated(0.0, (0.64, 0.33, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79)), RED),
        (calibrated(1.0, (0.64, 0.33, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79), kind=0x73524742), RED),
    ],
    ids=["linear", "exchanged", "no-colours", "no-gamma", "sRGB"],
)
def test_colours_may_be_calibrated(space, wanted):
    """By a gamma and three chromaticities."""
    data = bmp((1, 1), 24, bytes((*RED[::-1], 0)), 108, masks=bytes(16) + space)
    assert near(pixels(shown(data)), [wanted])


@pytest.mark.parametrize(
    "data",
    [
        bmp((2, 2), 24, bytes(8)),
        bmp((2, 2), 24, bytes(16))[:40],
        bmp((2, 2), 24, bytes(16), compression=4),
        bmp((2, 2), 3, bytes(16)),
        bmp((2, 2), 48, bytes(32)),
        bmp((2, 2), 8, b"\1\0", compression=1),
        bmp((2, 2), 8, b"\0\2", compression=1),
        bmp((2, 2), 8, b"\0\5abc", compression=1),
        bmp((2, 2), 8, b"\0\3\0\0\0\0\0\1", compression=1),
        bmp((2, 2), 8, b"\0\2\3\0\1\0\0\1", compression=1),
        bmp((2, 2), 4, bytes(16), compression=1),
        bmp((2, 2), 16, bytes(8), compression=3)[:54],
        bmp((0, 2), 24, b""),
        bmp((-2, 2), 24, bytes(16)),
        b"BM" + bytes(12) + struct.pack("<I", 13) + bytes(40),
    ],
)
def test_what_is_incomplete_or_unknown_is_refused(data):
    """Instead of a picture of which a part is missing."""
    with pytest.raises(ValidationError):
        shown(data)
