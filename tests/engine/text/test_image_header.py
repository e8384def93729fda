"""The size of an image from its header alone: what decoders read, at a cost that no file can raise."""

import random
import struct
import sys
import zlib
from io import BytesIO

import pytest
from PIL import Image

from engine.text.image_header import GIF_BLOCKS, JUNK, STEPS, DamagedHeader, read_jpeg, reader_for
from engine.text.images import check_header

SIZES = [(1, 1), (40, 30), (199, 1), (1, 200), (2049, 17), (255, 256)]
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
MIB = 2**20


def encoded(size, kind, mode="RGB", **options):
    data = BytesIO()
    Image.new(mode, size).save(data, kind, **options)
    return data.getvalue()


def size_of(data):
    return reader_for(data)(data)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def segment(marker, body=b""):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def riff(*chunks):
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"mode": "RGBA"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(2000)}),
        ("JPEG", {"mode": "L", "comment": b"\xff\xc0" * 500}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"mode": "RGBA", "exif": b"Exif\0\0"}),
        ("GIF", {"mode": "P"}),
        ("GIF", {"mode": "L", "comment": b"c" * 1000}),
        ("BMP", {}),
        ("BMP", {"mode": "1"}),
        ("AVIF", {"speed": 10}),
        ("AVIF", {"mode": "RGBA", "speed": 10}),
    ],
)
def test_the_size_is_the_one_that_the_file_was_written_with(size, kind, options):
    """All kinds of headers that Pillow writes."""
    assert size_of(encoded(size, kind, **options)) == size


def test_a_bitmap_may_have_its_rows_from_the_top_or_an_old_header():
    """A negative height, and the header of OS/2."""
    data = bytearray(encoded((7, 5), "BMP"))
    data[22:26] = struct.pack("<i", -5)
    assert size_of(bytes(data)) == (7, 5)
    assert size_of(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 300, 200, 1, 24)) == (300, 200)


def test_a_gif_is_as_large_as_its_first_image_needs():
    """Decoders make a screen larger that the first image does not fit on."""
    screen, image = struct.pack("<HHBBB", 10, 20, 0, 0, 0), struct.pack("<HHHHB", 5, 5, 100, 10, 0)
    extension = b"!\xf9\x04\0\0\0\0\0" + b"!\xfe\x03abc\x02de\0"
    assert size_of(b"GIF89a" + screen + extension + b"," + image + b"\x02\x02\x4c\x01\0;") == (105, 20)


def test_junk_between_the_segments_of_a_jpeg_is_skipped():
    """Decoders read such files, which some cameras write."""
    data = encoded((30, 40), "JPEG")
    assert size_of(data[:2] + segment(0xFE) + bytes(1000) + b"\xff" * 5 + data[2:]) == (30, 40)


def test_a_tall_order_allocates_nothing():
    """A canvas of 1 GiB that a header of 30 bytes claims is only a number."""
    claims = struct.pack("<I", 0) + (16382).to_bytes(3, "little") + (16382).to_bytes(3, "little")
    assert size_of(riff((b"VP8X", claims))) == (16383, 16383)
    lossless = struct.pack("<BI", 0x2F, 16382 | 16382 << 14)
    assert size_of(riff((b"VP8L", lossless + bytes(20)))) == (16383, 16383)


def box_of(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def hostile():
    """Files whose headers are long in every way that their formats allow; the size stands behind it all, or nowhere."""
    frame = segment(0xC0, struct.pack(">BHHB", 8, 1, 1, 1) + bytes(3))
    bomb, ihdr = zlib.compress(bytes(64 * MIB)), struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)
    texts = b"".join(chunk(kind, b"k\0\0" + bomb) for kind in (b"iCCP", b"zTXt", b"iTXt") for _ in range(20))
    yield "png-inflating", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + texts
    yield "png-late-header", b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", bytes(10)) * 100_000 + chunk(b"IHDR", ihdr)
    yield "jpeg-segments", b"\xff\xd8" + segment(0xE1) * 4_000_000 + frame
    yield "jpeg-large-segments", b"\xff\xd8" + segment(0xE2, bytes(65_000)) * 250 + frame
    yield "jpeg-fill", b"\xff\xd8" + b"\xff" * 16_000_000
    yield "jpeg-fill-between", b"\xff\xd8" + (b"\xff" * 60_000 + segment(0xE1)) * 250 + frame
    yield "jpeg-alone", b"\xff\xd8\xff" + b"\xd0\xff" * 8_000_000
    yield "jpeg-junk", b"\xff\xd8\xff\xe0\0\x02" + bytes(16_000_000) + frame
    yield "gif-blocks", b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01x" * 8_000_000
    yield "gif-long-extensions", b"GIF89a" + bytes(7) + (b"!\xfe" + b"\x01x" * 40 + b"\0") * 100_000
    yield "gif-extensions", b"GIF89a" + bytes(7) + b"!\xfe\0" * 5_000_000
    yield "gif-nothing", b"GIF89a" + bytes(16_000_000)
    box = struct.pack(">I4s", 8, b"free")
    ftyp = struct.pack(">I4s4s4x", 16, b"ftyp", b"avif")
    yield "avif-boxes", ftyp + box * 2_000_000
    yield "avif-properties", ftyp + struct.pack(">I4s4x", 16_000_012, b"meta") + box * 2_000_000
    entry = struct.pack(">HB", 1, 255) + bytes(255)
    ipma = box_of(b"ipma", struct.pack(">II", 0, 60_000) + entry * 60_000)
    iprp = box_of(b"iprp", box_of(b"ipco", box) + ipma)
    yield "avif-associations", ftyp + box_of(b"meta", bytes(4) + box_of(b"pitm", struct.pack(">IH", 0, 1)) + iprp)
    yield "ico-entries", struct.pack("<HHH", 0, 1, 65_535) + bytes((9, 9, 9, 0, *range(12))) * 65_535
    yield "webp-chunks", riff(*[(b"JUNK", b"")] * 100_000)


@pytest.mark.parametrize(("name", "data"), [pytest.param(*file, id=file[0]) for file in hostile()])
def test_no_header_costs_more_than_its_steps(name, data):
    """Counted in the lines that run: a few for each step and block, however long the file is."""
    ran = [0]

    def count(frame, event, _):
        ran[0] += 1
        return count

    others = sys.gettrace()  # coverage's own, which is to go on measuring
    sys.settrace(count)
    try:
        size_of(data)
    except DamagedHeader:
        pass
    finally:
        sys.settrace(others)
    assert ran[0] < 20 * STEPS + (6 * GIF_BLOCKS if name.startswith("gif") else 0)


def test_damaged_headers_are_errors_of_the_client_or_sizes():
    """Whatever bytes are wrong or missing: a size or DamagedHeader, nothing else."""
    rng = random.Random(11)
    for kind in KINDS:
        whole = encoded((33, 21), kind)
        for _ in range(300):
            broken = bytearray(whole[: rng.randrange(2, len(whole))])
            for _ in range(rng.randint(0, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            reader = reader_for(bytes(broken))
            try:
                size = (1, 1) if reader is None else reader(bytes(broken))
            except DamagedHeader:
                continue
            assert all(isinstance(side, int) and side >= 0 for side in size)


def test_a_header_is_checked_without_pillow(monkeypatch):
    """Its plugins allocate canvases and inflate chunks when they open a file."""
    monkeypatch.setattr("engine.text.images._DECODERS", {})
    for kind in KINDS:
        image = check_header(encoded((40, 30), kind))
        assert (image.width, image.height) == (40, 30)


@pytest.mark.parametrize("fill", [0, 1, 1030, 2000, JUNK - 1])
def test_fill_bytes_take_no_steps(fill):
    """Decoders pass over them; so does the header check, as far as over junk."""
    frame = b"\xff\xc0\x00\x11\x08\x00\x20\x00\x10\x03"
    assert read_jpeg(b"\xff\xd8" + b"\xff" * fill + frame + bytes(20)) == (16, 32)
    with pytest.raises(DamagedHeader):
        read_jpeg(b"\xff\xd8" + b"\xff" * (JUNK + 1 + fill) + frame + bytes(20))
