"""JPEG: files without their end, orientation, and the colours of presses."""

import pytest
from PIL import Image

from engine.errors import ValidationError
from tests.engine.text.formats.files import GREEN, RED, SIZE, WHITE, corners, encoded, near, orientation, picture, shown

LARGE = picture(size=(320, 200))


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


def test_the_colours_of_presses_are_shown():
    """Stored inverted, as all programs do."""
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert near(corners(data)[1], [RED, WHITE, WHITE, GREEN], 6)
