"""ICC profiles: whatever format brings them, colours come out as browsers show them."""

import random
import struct

import pytest
from PIL import Image, ImageCms

from engine.text import colour
from engine.text.colour import coded_profile, gamma_profile, to_srgb
from tests.engine.text.formats.files import GREEN, RED, WHITE, corners, encoded, near, picture

SWAPPED = gamma_profile(2.2, (0.3127, 0.3290, 0.30, 0.60, 0.64, 0.33, 0.15, 0.06))
LINEAR = gamma_profile(1.0)
STANDARD = [RED, WHITE, WHITE, GREEN]
EXCHANGED = [(24, 201, 57), WHITE, WHITE, (121, 12, 57)]


def grey_profile(gamma):
    """Return a profile of greys."""
    white = struct.pack(">4s4x3i", b"XYZ ", 63_190, 65_536, 54_061)
    curve = struct.pack(">4s4xIHxx", b"curv", 1, round(gamma * 256))
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x", 192, 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp", 63_190, 65_536, 54_061
    )
    return head + tags + white + curve


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100, "speed": 10}),
    ],
)
def test_a_profile_that_exchanges_channels_does_so(kind, options):
    """In each format that has profiles."""
    assert near(corners(encoded(picture(), kind, icc_profile=SWAPPED, **options))[1], EXCHANGED, 9)


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palettes_and_transparency_keep_their_profile(mode):
    """Colours are converted before they are laid over white, which stays white."""
    image = picture().quantize(8) if mode == "P" else picture("RGBA")
    assert near(corners(encoded(image, "PNG", icc_profile=SWAPPED))[1], EXCHANGED)
    hidden = Image.new("RGBA", (8, 8), (*RED, 0))
    assert corners(encoded(hidden, "PNG", icc_profile=SWAPPED))[1] == [WHITE] * 4


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_greys_have_profiles_of_greys_or_of_colours(mode):
    """A linear one makes them lighter."""
    grey = picture(mode)
    level = grey.convert("L").getpixel((1, 1))
    assert level == 84
    for profile in (grey_profile(1.0), LINEAR):
        assert near(corners(encoded(grey, "PNG", icc_profile=profile))[1][:1], [(155, 155, 155)])


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", grey_profile(1.0)),
        ("RGB", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
        ("RGB", b"no profile"),
        ("RGB", LINEAR[:150]),
        ("RGB", LINEAR.replace(b"RGB ", b"5CLR")),
        ("RGB", LINEAR.replace(b"rXYZ", b"xXYZ")),
        ("CMYK", LINEAR),
        ("L", LINEAR.replace(b"RGB ", b"CMYK")),
    ],
)
def test_a_profile_that_does_not_fit_is_none(mode, profile):
    """As in browsers; the colours are those of sRGB."""
    image = picture(mode)
    assert to_srgb(image, profile).tobytes() == image.convert("RGB").tobytes()


def test_a_profile_over_the_limit_is_none(monkeypatch):
    """It is not given to the library."""
    monkeypatch.setattr(colour, "MAX_PROFILE_BYTES", len(LINEAR) - 1)
    assert to_srgb(picture(), LINEAR).tobytes() == picture().tobytes()


def test_damaged_profiles_are_used_or_not():
    """Whatever bytes are wrong, the result is a picture."""
    chance = random.Random(2)
    for _ in range(300):
        broken = bytearray(chance.choice((LINEAR, SWAPPED, grey_profile(2.2))))
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert to_srgb(Image.new(chance.choice(("RGB", "L", "LA", "RGBA")), (4, 4)), bytes(broken)).size == (4, 4)


@pytest.mark.parametrize("chromaticities", [(0,) * 8, (0.3, 0.3) * 4, (0.3, 0.3, 1e9, 1e-9, 0, 1, 0, 1)])
def test_what_is_no_triangle_makes_no_profile(chromaticities):
    """Or one that does no harm; nor does a gamma that no profile can hold."""
    profile = gamma_profile(2.2, chromaticities)
    assert profile is None or to_srgb(picture(), profile).size == (60, 40)
    assert gamma_profile(1e9) is None


@pytest.mark.parametrize(
    ("points", "wanted"),
    [((1, 1), 113), ((1, 4), 121), ((1, 5), 98), ((1, 6), 113), ((9, 14), 113), ((9, 16), 114), ((9, 18), 92)],
)
def test_code_points_have_the_curves_of_screens(points, wanted):
    """Greys of television, of gammas and of high dynamic range, as Chromium 150 shows them."""
    shown = to_srgb(Image.new("RGB", (1, 1), (120,) * 3), coded_profile(*points))
    assert near([shown.getpixel((0, 0))], [(wanted,) * 3])


def test_code_points_of_srgb_need_no_profile_and_unknown_ones_have_none():
    """The first is a statement, the second is none."""
    assert coded_profile(1, 13) == b""
    assert coded_profile(1, 99) is None
    assert coded_profile(99, 13) is None
