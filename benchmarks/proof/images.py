"""Images that cost their decoder more than their size tells, and images that are damaged."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO

from PIL import Image

LARGEST = (6300, 6300)  # nearly the most pixels that are admitted
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")


@cache
def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    """Return an image of one colour."""
    buffer = BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def scan_bomb(scans: int = 1500, size: tuple[int, int] = LARGEST) -> bytes:
    """Return a progressive JPEG that repeats its last scan: each one costs the decoder a pass over all pixels."""
    image = encoded("JPEG", size, progressive=True)
    last = image[image.rindex(b"\xff\xda") : -2]
    return image[:-2] + last * scans + b"\xff\xd9"


@cache
def webp_bomb(size: tuple[int, int] = LARGEST) -> bytes:
    """Return a lossless WebP of some kilobytes with nearly the most pixels, and transparency."""
    return encoded("WEBP", size, "RGBA", lossless=True)


@cache
def png_bomb(size: tuple[int, int] = LARGEST) -> bytes:
    """Return a PNG of 16 bits a channel, which takes eight bytes a pixel."""
    width, height = size
    header = struct.pack("!IIBBBBB", width, height, 16, 6, 0, 0, 0)
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + 8 * width)) for _ in range(height)) + rows.flush()
    return png((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks."""
    parts = (struct.pack("!I", len(data)) + kind + data + _crc(kind + data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text_bomb(size: int = 60 * 2**20) -> bytes:
    """Return a PNG whose comment is far longer unpacked than packed. size: of the comment, in bytes."""
    header = struct.pack("!IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    comment = b"Comment\0\0" + zlib.compress(bytes(size), 9)
    pixels = zlib.compress(bytes(8 * 9))
    return png((b"IHDR", header), (b"zTXt", comment), (b"IDAT", pixels), (b"IEND", b""))


def profile_bomb(size: int = 60 * 2**20) -> bytes:
    """Return a PNG whose colour profile is far longer unpacked than packed. size: of the profile, in bytes."""
    header = struct.pack("!IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    profile = b"ICC\0\0" + zlib.compress(bytes(size), 9)
    return png((b"IHDR", header), (b"iCCP", profile), (b"IDAT", zlib.compress(bytes(8 * 9))), (b"IEND", b""))


@cache
def runs_bomb(size: tuple[int, int] = LARGEST) -> bytes:
    """Return a BMP of runs of one pixel each, in a file nearly as long as is admitted."""
    runs = b"\1\0" * 7_000_000
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(runs), 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 62 + len(runs), 0, 0, 62) + info + bytes(8) + runs


def frames_bomb(frames: int = 400) -> bytes:
    """Return a GIF of many frames, of which only the first is wanted."""
    buffer = BytesIO()
    pictures = [Image.new("P", (200, 200), number % 256) for number in range(frames)]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def lying_headers() -> Iterator[bytes]:
    """Yield images whose header tells another size than their pixels have."""
    for side in (0, 1, 255, 6300, 16_384, 65_535, 2**31 - 1):
        header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
        yield png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
        yield b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0)[:60]
        yield b"GIF89a" + struct.pack("<HHBBB", side % 65_536, side % 65_536, 0x80, 0, 0) + bytes(6) + b",\0\0\0\0"


def damaged(number: int, seed: int = 0) -> Iterator[bytes]:
    """Yield images of every kind that were cut off, or had some bytes changed, exchanged or repeated."""
    chance = random.Random(seed)
    whole = [encoded(kind) for kind in (*KINDS, "ICO")] + [scan_bomb(2, (64, 64)), webp_bomb((64, 64)), frames_bomb(3)]
    for _ in range(number):
        data = bytearray(chance.choice(whole))
        match chance.randrange(4):
            case 0:
                del data[chance.randrange(len(data)) :]
            case 1:
                for _ in range(chance.choice((1, 4, 40))):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            case 2:
                start = chance.randrange(len(data))
                data[start : start + 8] = chance.randbytes(chance.randrange(16))
            case _:
                start = chance.randrange(len(data))
                data[start:start] = data[start : start + 500] * chance.randrange(1, 20)
        yield bytes(data)


def _crc(data: bytes) -> bytes:
    return struct.pack("!I", zlib.crc32(data))
