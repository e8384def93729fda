"""JPEG: files without their end, orientation, and the colours of presses."""

import pytest
from PIL import Image

from engine.errors import ValidationError
from engine.text.colour import gamma_profile
from engine.text.formats import jpeg
from engine.text.image_header import JUNK, STEPS, DamagedHeader, read_jpeg
from engine.text.images import MAX_SCANS
from tests.engine.text.formats.files import (
    GREEN,
    RED,
    SIZE,
    WHITE,
    corners,
    encoded,
    near,
    orientation,
    picture,
    segment,
    shown,
    tiff,
)

LARGE = picture(size=(320, 200))
SCAN, END = b"\xff\xda", b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["", "progressive", "444"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_file_without_its_end_mark_is_shown_whole(options, mode):
    """Or with half of it, or with another byte behind it."""
    whole = encoded(LARGE.convert(mode), "JPEG", quality=95, **options)
    wanted = shown(whole).tobytes()
    for data in (whole[:-2], whole[:-1], whole + b"trailing", whole[:-2] + b"\0"):
        assert shown(data).tobytes() == wanted


@pytest.mark.parametrize("cut", [12, 40, 300])
def test_a_file_that_lacks_more_is_refused(cut):
    """Wherever it ends, some pixels would be invented."""
    data = encoded(Image.effect_noise((160, 120), 90), "JPEG", quality=90)
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(data[:-cut])


PLACES = ["r  g", " rg ", "g  r", " gr ", "r  g", " rg ", "g  r", " gr ", "r  g"]


@pytest.mark.parametrize(("number", "places"), [*enumerate(PLACES, 1)])
def test_the_orientation_in_exif_is_applied(number, places):
    """Of all eight; where there is no such one the picture stays."""
    size, colours = corners(encoded(picture(), "JPEG", quality=95, subsampling=0, exif=orientation(number)))
    assert size == (SIZE[::-1] if number in range(5, 9) else SIZE)
    assert near(colours, [{"r": RED, "g": GREEN, " ": WHITE}[place] for place in places], 6)


def test_an_orientation_in_xmp_is_not():
    """Browsers do not look there."""
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    size, colours = corners(encoded(picture(), "JPEG", quality=95, xmp=xmp))
    assert size == SIZE
    assert near(colours, [RED, WHITE, WHITE, GREEN], 6)


PLAIN = encoded(picture(), "JPEG", quality=95, subsampling=0)
TURNED = (0x0112, 3, 1, 6)


def with_segments(*segments, data=PLAIN):
    return data[:2] + b"".join(segments) + data[2:]


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (b"Exif\0\0" + tiff(TURNED), True),
        (b"Exif\0\1" + tiff(TURNED), True),
        (b"Exif\0\0" + tiff(TURNED, order=">"), True),
        (b"Exif\0\0" + tiff((0x0112, 3, 1, 9), TURNED, (0x0112, 3, 1, 3)), True),
        (b"Exif\0\0" + tiff((0x0112, 4, 1, 6)), False),
        (b"Exif\0\0" + tiff((0x0112, 3, 2, 6)), False),
        (b"Exif\0\0" + tiff((0x0112, 3, 1, 0)), False),
        (b"Exif\0\0" + tiff((0x0100, 3, 1, 6))[:12], False),
        (b"Exif" + tiff(TURNED), False),
        (b"Exif\0\0" + b"II*\0\xff\xff\xff\xff", False),
        (b"Exif\0\0nothing", False),
        (b"Exif\0", False),
    ],
)
def test_the_first_orientation_that_is_one_counts(exif, turned):
    """Whatever else the EXIF data hold, and however they are damaged; compared with Chromium 150."""
    assert shown(with_segments(segment(0xE1, exif))).size == (SIZE[::-1] if turned else SIZE)


def test_only_the_first_exif_data_count():
    """Files may have several."""
    plain, turned = (segment(0xE1, b"Exif\0\0" + tiff(entry)) for entry in ((0x0100, 3, 1, 6), TURNED))
    assert shown(with_segments(turned, plain)).size == SIZE[::-1]
    assert shown(with_segments(plain, turned)).size == SIZE


SWAPPED = gamma_profile(2.2, (0.3127, 0.3290, 0.30, 0.60, 0.64, 0.33, 0.15, 0.06))


def part(number, total, body):
    return segment(0xE2, b"ICC_PROFILE\0" + bytes((number, total)) + body)


FIRST, SECOND = part(1, 2, SWAPPED[:200]), part(2, 2, SWAPPED[200:])


@pytest.mark.parametrize(
    ("parts", "swapped"),
    [
        ([part(1, 1, SWAPPED)], True),
        ([FIRST, SECOND], True),
        ([SECOND, FIRST], True),
        ([part(1, 1, SWAPPED), part(1, 1, SWAPPED)], True),
        ([FIRST], False),
        ([part(1, 3, SWAPPED)], False),
        ([part(0, 0, SWAPPED)], False),
        ([segment(0xE2, b"ICC_PROFILE\0")], False),
        ([segment(0xE2, b"ICC_PROFILE\0\1\1")], False),
    ],
)
def test_a_profile_may_come_in_parts(parts, swapped):
    """In any order, twice, and behind the frame's header; a part that is missing makes it none."""
    frame = PLAIN.index(b"\xff\xda")
    for data in (with_segments(*parts), PLAIN[:frame] + b"".join(parts) + PLAIN[frame:]):
        assert near(corners(data)[1][:1], [(24, 201, 57) if swapped else RED], 6)


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04"),
        segment(0xE2, b"MPF\0junk"),
        segment(0xFE, b""),
        segment(0xE5, bytes(60_000)) * 50,
        b"\xff" * 9,
        b"\xff" * 1030,
        b"\xff" * (JUNK - 1),
        b"\xff\0\xff\1\xff\xd0\xff\xd8" * 2000,
        segment(0xFE, b"") + bytes(JUNK),
        segment(0xFE, b"") + b"junk",
        segment(0xE5, bytes(15_000)) * (STEPS - 20),
        segment(0xE1, SCAN * 1000),
    ],
)
def test_damaged_metadata_neither_stop_a_picture_nor_change_it(damaged):
    """Whatever they are, and whatever lies between them."""
    assert shown(with_segments(damaged)).tobytes() == shown(PLAIN).tobytes()


@pytest.mark.parametrize(
    "between",
    [b"\xff" * (JUNK + 1), bytes(JUNK + 1), (bytes(JUNK // 2) + segment(0xFE, b"")) * 3, segment(0xFE, b"") * STEPS],
)
def test_what_lies_between_segments_is_bounded(between):
    """To search it takes time; the header check and the decoder read no further."""
    data = with_segments(between)
    with pytest.raises(DamagedHeader):
        read_jpeg(data)
    with pytest.raises(DamagedHeader):
        jpeg.decode(data, SIZE)


PROGRESSIVE = encoded(picture(), "JPEG", progressive=True)
LAST = PROGRESSIVE[PROGRESSIVE.rindex(SCAN) : -2]
OWN = jpeg.scans(PROGRESSIVE)
MANY = LAST * MAX_SCANS


def test_scans_are_counted():
    """Those of the picture, with what decoders pass over in them."""
    assert OWN == PROGRESSIVE.count(SCAN)
    assert jpeg.scans(PROGRESSIVE[:-2] + MANY + END) == OWN + MAX_SCANS
    assert jpeg.scans(PROGRESSIVE[:-2] + MANY) == OWN + MAX_SCANS
    assert jpeg.scans(PROGRESSIVE[:-2] + b"\xff\xff" + LAST) == OWN + 1
    restarting = encoded(LARGE, "JPEG", restart_marker_blocks=1)
    assert restarting.count(b"\xff\xd3") > 9
    assert jpeg.scans(restarting) == 1


@pytest.mark.parametrize("behind", [MANY, SCAN * 5000, PROGRESSIVE * 20], ids=["scans", "markers", "pictures"])
def test_what_follows_the_end_of_a_picture_is_not_counted(behind):
    """Phones append a video, in which the bytes of a marker stand by chance."""
    assert shown(PROGRESSIVE + behind).tobytes() == shown(PROGRESSIVE).tobytes()


def test_comments_among_scans_are_not_counted():
    """They are passed over as a whole, as decoders do."""
    data = PROGRESSIVE[:-2] + segment(0xFE, SCAN * 1000 + MANY) + LAST + END
    assert jpeg.scans(data) == OWN + 1
    assert shown(data).size == SIZE


@pytest.mark.parametrize(
    "before",
    [
        b"",
        segment(0xFE, END),
        segment(0xE1, b"\xff" + END),
        b"\xff\0" + b"\xff\xd0",
        b"\xff\2" + (len(MANY) + 2).to_bytes(2),
        segment(0xFE, b"") * STEPS,
    ],
    ids=["nothing", "end in comment", "end in metadata", "no markers", "no segment", "comments"],
)
def test_no_scans_are_hidden(before):
    """Behind an end that is none, in a length that counts for no decoder, or among segments beyond number."""
    with pytest.raises(ValidationError, match="too long"):
        shown(PROGRESSIVE[:-2] + before + MANY + END)


def test_the_colours_of_presses_are_shown():
    """Stored inverted, as all programs do."""
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert near(corners(data)[1], [RED, WHITE, WHITE, GREEN], 6)
