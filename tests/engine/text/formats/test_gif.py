"""GIF: frames, screens and transparency as browsers show them."""

import struct

import pytest

from engine.errors import ValidationError
from engine.text.image_header import GIF_BLOCKS
from tests.engine.text.formats.files import GREEN, RED, SIZE, WHITE, corners, encoded, picture, shown

PLAIN = encoded(picture(), "GIF")
TABLE = 13 + 3 * 2 ** ((PLAIN[10] & 7) + 1)
IMAGE = PLAIN.index(b",", TABLE)
AS_IT_IS = (SIZE, [RED, WHITE, WHITE, GREEN])


def placed(screen, left, top, background=0):
    """Return the picture at a place of a screen."""
    head = PLAIN[:6] + struct.pack("<HH", *screen) + PLAIN[10:11] + bytes([background]) + PLAIN[12:IMAGE]
    return head + b"," + struct.pack("<HH", left, top) + PLAIN[IMAGE + 5 :]


def control(flags, transparent):
    return b"!\xf9\x04" + bytes((flags, 0, 0, transparent)) + b"\0"


@pytest.mark.parametrize("background", [0, 1])
@pytest.mark.parametrize(("screen", "size"), [((100, 60), (100, 60)), ((50, 30), (70, 45)), ((0, 0), (70, 45))])
def test_the_screen_around_a_frame_is_transparent(screen, size, background):
    """Whatever its background; a screen that is too small for the frame grows."""
    image = shown(placed(screen, 10, 5, background))
    assert image.size == size
    assert [image.getpixel(at) for at in ((9, 5), (10, 5), (69, 44))] == [WHITE, RED, GREEN]


def test_only_the_last_control_before_the_frame_counts():
    """Each one replaces the one before."""
    index = next(index for index in range(8) if tuple(PLAIN[13 + 3 * index : 16 + 3 * index]) == RED)
    seen = PLAIN[:IMAGE] + control(1, index) + control(0, 0) + PLAIN[IMAGE:]
    hidden = PLAIN[:IMAGE] + control(0, 0) + control(1, index) + b"!\xfe\x01a\0" + PLAIN[IMAGE:]
    assert corners(seen) == AS_IT_IS
    assert corners(hidden) == (SIZE, [WHITE, WHITE, WHITE, GREEN])


@pytest.mark.parametrize("data", [PLAIN[:-1], PLAIN[:-2], PLAIN + b"trailing", encoded(picture(), "GIF", interlace=1)])
def test_a_frame_that_is_all_there_is_shown(data):
    """Without its end, with something behind it, interlaced."""
    assert corners(data) == AS_IT_IS


@pytest.mark.parametrize("data", [PLAIN[: IMAGE + 20], PLAIN[:IMAGE] + b";", PLAIN[: IMAGE + 3]])
def test_a_frame_that_is_not_all_there_is_refused(data):
    """Also one that has only begun, and a file without one."""
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(data)


XMP_END = b"\1" + bytes(range(255, -1, -1)) + b"\0"  # whichever of these bytes is taken for a length leads to the end
XMP = b"!\xff\x0bXMP DataXMP" + b"      <rdf:li>xmp.did:0123456789ABCDEF0123456789ABCDEF</rdf:li>\n" * 25_000 + XMP_END
COMMENT = b"!\xfe" + (b"\xff" + b"c" * 255) * 30_000 + b"\0"


@pytest.mark.parametrize("extension", [XMP, COMMENT, b"!\xfe" + b"\1c" * (GIF_BLOCKS - 1) + b"\0"])
def test_long_metadata_are_passed_over(extension):
    """Editors write megabytes of XMP, whose text is read as the lengths of blocks."""
    assert corners(PLAIN[:IMAGE] + extension + PLAIN[IMAGE:]) == AS_IT_IS


@pytest.mark.parametrize("extensions", [[GIF_BLOCKS], [GIF_BLOCKS // 2] * 2], ids=["one", "together"])
def test_the_blocks_of_metadata_are_bounded(extensions):
    """Each takes a step of ours."""
    written = b"".join(b"!\xfe" + b"\1c" * count + b"\0" for count in extensions)
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(PLAIN[:IMAGE] + written + PLAIN[IMAGE:])


@pytest.mark.parametrize("cut", [b"!", b"!\xfe", b"!\xfe\x05abc", b"!\xfe\x03abc"])
def test_an_extension_that_does_not_end_is_refused(cut):
    """Wherever it stops."""
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(PLAIN[:IMAGE] + cut)
