"""AVIF and WebP: sizes, orientation, transparency and colours."""

import struct

import pytest
from PIL import Image

from engine.errors import ValidationError
from engine.text.avif_header import is_heic, read_avif
from engine.text.images import check_header
from tests.engine.text.formats.files import GREEN, RED, SIZE, WHITE, corners, encoded, near, orientation, picture, shown

FAST = {"speed": 10, "quality": 90}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [SIZE, (1, 1), (63, 33)])
def test_sizes_are_those_of_the_header(mode, size):
    """In colour, in grey and with transparency, odd ones too."""
    data = encoded(picture("RGB", size).convert(mode), "AVIF", **FAST)
    header = check_header(data)
    assert (header.width, header.height) == size == shown(data).size


@pytest.mark.parametrize("number", range(1, 9))
def test_a_rotation_of_the_container_is_applied(number):
    """As the same picture in JPEG is rotated; the header tells the size as it is stored."""
    avif = encoded(picture(), "AVIF", exif=orientation(number), **FAST)
    jpeg = encoded(picture(), "JPEG", exif=orientation(number), quality=95, subsampling=0)
    assert check_header(avif).width == SIZE[0]
    (size, colours), (wanted_size, wanted) = corners(avif), corners(jpeg)
    assert size == wanted_size
    assert near(colours, wanted, 12)


def test_transparency_is_over_white():
    """Fully and half transparent."""
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (8, 0, 16, 16))
    pixels = shown(encoded(image, "AVIF", quality=100, speed=10))
    assert near([pixels.getpixel((2, 8)), pixels.getpixel((13, 8))], [WHITE, (255, 127, 127)], 8)


@pytest.mark.parametrize(("place", "damage"), [(0, b"XXXX"), (4, b"\xff" * 4), (8, b"\xff\xff")])
def test_damaged_exif_data_do_not_stop_a_picture(place, damage):
    """Nor do they turn it; the container does."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = encoded(picture(), "AVIF", exif=exif.tobytes(), **FAST)
    start = max(data.find(b"II*\0"), data.find(b"MM\0*")) + place
    assert shown(data[:start] + damage + data[start + len(damage) :]).size == SIZE[::-1]


def test_an_animation_shows_its_first_frame():
    """Its size is that of its track."""
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], duration=50, speed=10)
    assert data[8:12] == b"avis"
    assert near([shown(data).getpixel((16, 12))], [(255, 0, 0)], 6)


def with_code_points(primaries, transfer):
    data = bytearray(encoded(picture(), "AVIF", **FAST))
    place = data.index(b"nclx") + 4
    data[place : place + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


@pytest.mark.parametrize(
    ("primaries", "transfer", "wanted"),
    [
        (1, 13, [RED, WHITE, WHITE, GREEN]),
        (2, 2, [RED, WHITE, WHITE, GREEN]),
        (1, 8, [(229, 96, 133), WHITE, WHITE, (79, 183, 133)]),
        (12, 13, [(218, 0, 54), WHITE, WHITE, (0, 122, 52)]),
    ],
)
def test_code_points_tell_the_colours(primaries, transfer, wanted):
    """Those of H.273, in the container."""
    assert near(corners(with_code_points(primaries, transfer))[1], wanted, 6)


def test_a_brand_of_several_is_enough():
    """Files may say that they are several things; HEIC is another one."""
    data = encoded(picture(), "AVIF", **FAST)
    assert data[8:12] == b"avif"
    assert check_header(data[:8] + b"mif1" + data[12:]).width == SIZE[0]
    assert not is_heic(b"\0\0\0\x18ftypavis\0\0\0\0avifavis")


def test_early_files_with_two_equal_boxes_are_read():
    """The first programs wrote the properties of each picture into a box of its own."""
    image = picture("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE).point(lambda level: max(level, 128)))
    data = encoded(image, "AVIF", **FAST)
    wanted = corners(data)
    start = data.index(b"ipma") - 4
    size, entries = struct.unpack_from(">I12xI", data[start : start + 20])[0], []
    (count,) = struct.unpack_from(">I", data, start + 12)
    assert count == 2
    position = start + 16
    for _ in range(count):
        length = 3 + data[position + 2]
        entries.append(data[position : position + length])
        position += length
    boxes = b"".join(struct.pack(">I4sII", 16 + len(body), b"ipma", 0, 1) + body for body in entries)
    grown = 16
    changed = bytearray(data[:start] + boxes + data[start + size :])
    for kind in (b"meta", b"iprp"):
        place = changed.index(kind) - 4
        changed[place : place + 4] = struct.pack(">I", struct.unpack_from(">I", changed, place)[0] + grown)
    place = changed.index(b"iloc") + 12
    for _ in range(2):  # each item: number, method, reference, extents, offset and length
        offset = place + 8 if changed[changed.index(b"iloc") + 4] else place + 6
        changed[offset : offset + 4] = struct.pack(">I", struct.unpack_from(">I", changed, offset)[0] + grown)
        place = offset + 8
    assert len(read_avif(bytes(changed)).associations) == 2
    assert corners(bytes(changed)) == wanted


def test_the_orientation_in_exif_of_webp_is_not_applied():
    """Browsers show such files as they are stored."""
    assert corners(encoded(picture(), "WEBP", lossless=True, exif=orientation(6))) == (SIZE, [RED, WHITE, WHITE, GREEN])


def test_what_an_animation_leaves_free_is_transparent():
    """Also where it says that nothing is; its background does not count."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"duration": 50, "lossless": True, "background": (0, 0, 255, 255)}
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options))
    data[20] &= ~0x10  # no transparency
    data[24:27] = data[27:30] = (39).to_bytes(3, "little")
    frame = data.index(b"ANMF") + 8
    data[frame : frame + 6] = b"\2\0\0\3\0\0"  # in pairs of pixels
    image = shown(bytes(data))
    assert image.size == (40, 40)
    assert [image.getpixel(at) for at in ((3, 6), (4, 6), (19, 21), (20, 21))] == [
        WHITE,
        (255, 0, 0),
        (255, 0, 0),
        WHITE,
    ]


@pytest.mark.parametrize("cut", [40, 200, -20])
def test_incomplete_files_are_refused(cut):
    """In the header check or in the decoder."""
    with pytest.raises(ValidationError, match="damaged or incomplete"):
        shown(encoded(picture(), "AVIF", **FAST)[:cut])
