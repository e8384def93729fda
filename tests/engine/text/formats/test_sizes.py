"""The size that was checked is the one that a decoder allocates, whatever other sizes a file tells."""

import struct

import pytest
from PIL import Image, ImageFile

from engine.errors import ValidationError
from engine.text.formats import avif, bmp, gif, ico, jpeg, webp
from engine.text.formats import png as png_format
from engine.text.formats.layer import Damaged
from engine.text.image_decoder import InProcessDecoder, Job
from engine.text.images import check_header
from engine.wanted import Wanted
from tests.engine.text.formats.files import SIZE, chunk, encoded, icon, picture, png, shown

DECODERS = {"PNG": png_format, "JPEG": jpeg, "WEBP": webp, "GIF": gif, "BMP": bmp, "AVIF": avif, "ICO": ico}
HUGE = (30_000, 30_000)
PLAIN = encoded(picture(), "JPEG")


@pytest.fixture
def no_pixels(monkeypatch):
    """Fail where pixels are allocated."""

    def fail(*args, **kwargs):
        pytest.fail("pixels were allocated")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for name in ("new", "frombytes"):
        monkeypatch.setattr(Image, name, fail)


@pytest.mark.parametrize("kind", DECODERS)
def test_no_pixels_of_another_size_are_allocated(kind, request):
    """In any format."""
    data = encoded(picture(), kind)
    size = check_header(data)
    assert DECODERS[kind].decode(data, (size.width, size.height)).pixels.size == (size.width, size.height)
    request.getfixturevalue("no_pixels")
    with pytest.raises(Damaged):
        DECODERS[kind].decode(data, (size.width, size.height + 1))


def png_claiming(width, height):
    return png(8, 2, [bytes(3)])[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def info(width, height, compression=0, size=40):
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, 8, compression, 0, 0, 0, 0, 0)
    return header.ljust(size, b"\0") + bytes(1024) + b"\0\1"


INSIDE = {
    "png": png_claiming(*HUGE),
    "runs": info(*HUGE, compression=1),
    "plain": info(*HUGE),
    "from the top": info(HUGE[0], -HUGE[1]),
    "new header": info(*HUGE, size=124),
    "old header": struct.pack("<IHHHH", 12, *HUGE, 1, 24),
    "a little wider": info(17, 32),
    "a little higher": info(16, 34),
    "no pixels": png_claiming(0, 0),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", [1, 2], ids=["icon", "cursor"])
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
def test_the_picture_within_an_icon_has_the_size_of_its_entry(no_pixels, inside, kind):
    """It has a header of its own, which is read before anything is admitted or decoded."""
    with pytest.raises(ValidationError, match="damaged"):
        check_header(icon((16, 16, 0, 32, inside), kind=kind))


def frame(width, height, marker=0xC0):
    return bytes((0xFF, marker, 0, 11, 8)) + struct.pack(">HH", height, width) + b"\1\1\x11\0"


@pytest.mark.parametrize("marker", [0xC0, 0xC2, 0xC9])
def test_the_last_frame_of_a_jpeg_is_no_larger_than_the_first(no_pixels, marker):
    """The header check reads the first one, the plugin the last one."""
    start = PLAIN.index(b"\xff\xc4")
    header = check_header(PLAIN[:start] + frame(*HUGE, marker) + PLAIN[start:])
    assert (header.width, header.height) == SIZE
    with pytest.raises(ValidationError, match="damaged"):
        InProcessDecoder().decode(Job(header.data, 0, 0, 100), Wanted())


def test_the_frame_of_an_animation_is_no_larger_than_its_picture():
    """Such a frame is passed over, and the picture for programs that know no animations is shown."""
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, *HUGE, 0, 0, 1, 10, 0, 0))
    still = encoded(picture(), "PNG")
    pixels = chunk(b"fdAT", bytes(4) + b"x")
    animated = still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:-12] + control + pixels + still[-12:]
    assert shown(animated).size == SIZE
