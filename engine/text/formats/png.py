"""PNG and APNG (ISO 15948; https://www.w3.org/TR/png-3/).

Pillow's plugin inflates and checks metadata that nobody sees, and refuses files for them. Here the chunks are read
first, and the plugin gets a file of those that make the picture. As in Chromium: metadata with a wrong checksum do not
count, nor do those after the pixels; checksums of pixels are not checked; an animation shows its first frame, also
where programs that do not know animations are given another picture; what follows complete pixels may be missing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import reduce
from io import BytesIO
from itertools import takewhile

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from engine.text import colour
from engine.text.formats.layer import Damaged, Layer, orientation_in
from engine.text.image_header import Size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">IIBBBBB")
FRAME = struct.Struct(">IIII")  # the beginning of a frame's control: width, height, left, top
GREY, COLOURS, PALETTE = 0, 2, 3  # the colour types without an alpha channel
KNOWN = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
PIXELS = (b"IDAT", b"fdAT")
INTENTS = (b"\0", b"\1", b"\2", b"\3")  # what may stand in an sRGB chunk
PIECE = 2**20  # bytes that are inflated at once

Chunk = tuple[bytes, memoryview]


def decode(data: bytes, size: Size) -> Layer:
    """Return the picture, or the first frame of an animation. Raises Damaged, or what Pillow raises."""
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if b"IDAT" not in kinds or kinds[0] != b"IHDR" or len(chunks[0][1]) != HEADER.size:
        raise Damaged
    start = kinds.index(b"IDAT")
    before = dict(reversed(chunks[:start]))  # of each kind the first
    if HEADER.unpack(before[b"IHDR"])[:2] != size:
        raise Damaged
    if (
        b"tRNS" in before
        and b"PLTE" in kinds[kinds.index(b"tRNS") : start]
        and before[b"IHDR"][9:10] == bytes([PALETTE])
    ):
        del before[b"tRNS"]  # alphas before their colours
    stored = [content for _, content in takewhile(lambda chunk: chunk[0] == b"IDAT", chunks[start:])]
    frames = int.from_bytes(before.get(b"acTL", b"")[:4])
    animated = 0 < frames < 1 << 31 and b"fcTL" not in before
    pixels = (_first_frame(before, chunks[start:]) if animated else None) or _pixels(before, before[b"IHDR"], stored)
    return Layer(pixels, _profile(before), orientation_in(bytes(before.get(b"eXIf", b""))))


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the kind and the content of each chunk that counts; pixels may be cut off."""
    position, view = len(SIGNATURE), memoryview(data)
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + size
        if kind in PIXELS or data[end : end + 4] == struct.pack(">I", zlib.crc32(view[position + 4 : end])):
            yield kind, view[position + 8 : end]
        elif kind in (b"IHDR", b"PLTE"):
            raise Damaged
        if kind == b"IEND":
            return
        if kind.isalpha() and kind[:1].isupper() and kind not in KNOWN:
            raise Damaged  # marked as necessary
        position = end + 4


def _first_frame(before: dict[bytes, memoryview], chunks: list[Chunk]) -> Image.Image | None:
    """Return the first frame that has pixels, None where there is none or it does not fit."""
    kinds = [kind for kind, _ in chunks]
    if b"fdAT" not in kinds:
        return None
    start = kinds.index(b"fdAT")
    control = next((content for kind, content in reversed(chunks[:start]) if kind == b"fcTL"), b"")
    if len(control) < 4 + FRAME.size:
        return None
    width, height, left, top = FRAME.unpack_from(control, 4)  # behind its sequence number
    header = before[b"IHDR"]
    size = HEADER.unpack(header)[:2]
    if min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        return None
    stored = [content[4:] for _, content in takewhile(lambda chunk: chunk[0] != b"fcTL", chunks[start:])]
    frame = _pixels(before, struct.pack(">II", width, height) + bytes(header[8:]), stored)
    if frame.size == size:
        return frame
    canvas = Image.new("RGBA", size)
    canvas.paste(frame.convert("RGBA"), (left, top))
    return canvas


def _pixels(before: dict[bytes, memoryview], header: bytes | memoryview, stored: Iterable[memoryview]) -> Image.Image:
    """Return what a stream of pixels holds, with its transparency."""
    depth, kind = HEADER.unpack(header)[2:4]
    palette, transparency = bytes(before.get(b"PLTE", b"")), bytes(before.get(b"tRNS", b""))
    if kind == PALETTE and not palette:
        raise Damaged
    alphas = transparency if kind == PALETTE and len(transparency) <= len(palette) // 3 else b""
    colours = palette[:768] + palette[-3:] * (256 - len(palette) // 3) if kind == PALETTE else b""
    stream = b"".join(stored)
    try:
        image = _loaded(file := _written(bytes(header), colours, alphas, stream))
    except OSError:
        image = _loaded(file := _written(bytes(header), colours, alphas, _mended(stream)))
    if kind == PALETTE:
        return image.convert("RGBA" if alphas else "RGB")
    alpha = None
    if (kind, len(transparency)) in ((GREY, 2), (COLOURS, 6)):
        alpha = _alpha(image, file, depth, struct.unpack(f">{len(transparency) // 2}H", transparency))
    if image.mode == "I;16":  # convert() would clip values over 255 instead of scaling 16 bits to 8
        image = image.point(lambda value: value * (1 / 257)).convert("L")
    image = image.convert("L") if image.mode == "1" else image
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _mended(stream: bytes) -> bytes:
    """Return a stream of pixels with its right checksum. Raises Damaged unless that is all that is wrong."""
    inflate, deflate = zlib.decompressobj(-zlib.MAX_WBITS), zlib.compressobj(1)
    mended, rest = [], stream[2:]
    try:
        while rest and not inflate.eof:
            mended.append(deflate.compress(inflate.decompress(rest, PIECE)))
            rest = inflate.unconsumed_tail
    except zlib.error:
        raise Damaged from None
    if not inflate.eof:
        raise Damaged
    return b"".join((*mended, deflate.flush()))


def _written(header: bytes, palette: bytes, alphas: bytes, stored: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"tRNS", alphas), (b"IDAT", stored))
    parts = [struct.pack(">I", len(body)) + kind + body + _checksum(kind, body) for kind, body in chunks if body]
    return SIGNATURE + b"".join(parts)


def _checksum(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _loaded(file: bytes, rawmode: str | None = None) -> Image.Image:
    """Return what the plugin makes of a file. rawmode: how it is told to read the pixels, if not as the header says."""
    image = PngImageFile(BytesIO(file))
    if rawmode:
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    return image


def _alpha(image: Image.Image, file: bytes, depth: int, colours: tuple[int, ...]) -> Image.Image:
    """Return the alpha channel where one colour is transparent: 0 exactly where every channel has its value."""
    values = [value & (1 << depth) - 1 for value in colours]
    if image.mode == "I;16":
        return image.convert("I").point([255 * (level != values[0]) for level in range(65_536)], "L")
    if depth == 16:  # the plugin keeps the high bytes; read as if the low ones came first, the others
        low = _loaded(file, "RGB;16L")
        others = [*_differ(image, [value >> 8 for value in values]), *_differ(low, [value & 255 for value in values])]
    else:
        others = [*_differ(image, [value * 255 // ((1 << depth) - 1) for value in values])]
    return reduce(ImageChops.lighter, others)


def _differ(image: Image.Image, values: list[int]) -> Iterator[Image.Image]:
    """Yield for each channel an image that is 255 where it has not the value."""
    for channel, value in zip(image.split(), values, strict=True):
        yield channel.convert("L").point([255 * (level != value) for level in range(256)])


def _profile(before: dict[bytes, memoryview]) -> bytes | None:
    """Return the profile of the colours: the first of those that the standard ranks, if it is one (section 4.3)."""
    code_points = bytes(before.get(b"cICP", b""))
    if code_points[2:] == b"\0\1" and (profile := colour.coded_profile(*code_points[:2])) is not None:
        return profile
    icc = _inflated(before.get(b"iCCP", memoryview(b"")))
    if icc is not None and colour.is_profile(icc):
        return icc
    if bytes(before.get(b"sRGB", b"")) in INTENTS or len(before.get(b"gAMA", b"")) != 4:
        return None
    (gamma,) = struct.unpack(">I", before[b"gAMA"])
    if not gamma:
        return None
    corners = before.get(b"cHRM", memoryview(b""))
    primaries = tuple(value / 100_000 for value in struct.unpack(">8I", corners)) if len(corners) == 32 else colour.SRGB
    return colour.gamma_profile(100_000 / gamma, primaries)


def _inflated(chunk: memoryview) -> bytes | None:
    """Return the profile in a chunk, behind its name and the number of its compression, which is 0."""
    name, _, rest = bytes(chunk[:81]).partition(b"\0")
    if not name or rest[:1] != b"\0":
        return None
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(chunk[len(name) + 2 :], colour.MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if stream.eof else None
