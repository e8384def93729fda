"""Small files of every format, made of their parts."""

import struct
import zlib
from io import BytesIO

from PIL import Image

from engine.text.images import check_header, decode

RED, GREEN, WHITE = (200, 30, 60), (20, 120, 60), (255, 255, 255)
SIZE = (60, 40)


def picture(mode="RGB", size=SIZE):
    """Return white with a red quarter top left and a green one bottom right."""
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    image.paste(GREEN, (size[0] // 2, size[1] // 2, *size))
    return image.convert(mode)


def encoded(image, kind, **options):
    """Return a file."""
    data = BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def shown(data):
    """Return what the model sees of a file."""
    return decode(check_header(data))


def corners(data):
    """Return the size of what the model sees, and the colours top left, top right, bottom left and bottom right."""
    image = shown(data)
    right, bottom = image.width - 2, image.height - 2
    return image.size, [image.getpixel(at) for at in ((1, 1), (right, 1), (1, bottom), (right, bottom))]


def near(colours, wanted, tolerance=3):
    """Whether each colour differs from the wanted one by a few levels at most."""
    pairs = [pair for one, two in zip(colours, wanted, strict=True) for pair in zip(one, two, strict=True)]
    return all(abs(a - b) <= tolerance for a, b in pairs)


def chunk(kind, body, checksum=None):
    """Return a chunk of a PNG; its checksum is right unless one is given."""
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(depth, colours, rows, *metadata, after=(), interlaced=0):
    """Return a PNG. rows: of bytes, each without its filter. metadata: chunks before the pixels, after: behind them."""
    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours])
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), *metadata, chunk(b"IDAT", pixels), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_metadata(data, *chunks):
    """Return a PNG with chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def orientation(number):
    """Return EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


def tiff(*entries, order="<"):
    """Return EXIF data: tag, type, count and value of each entry."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + b"".join(struct.pack(order + "HHIHH", *entry, 0) for entry in entries) + bytes(4)


def segment(marker, body):
    """Return a segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def bmp(size, depth, pixels, header=40, compression=0, masks=b"", palette=b"", used=0, offset=0):
    """Return a BMP. offset: of the pixels, by default right behind the palette."""
    width, height = size
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, depth)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, depth, compression, len(pixels), 0, 0, used, 0)
        info = (info + (masks if header > 40 else b"")).ljust(header, b"\0")[:header] + (masks if header == 40 else b"")
    start = offset or 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def icon(*entries, kind=1):
    """Return an ICO, or a CUR (kind 2), of pictures: width, height, colours, bits and the file of each."""
    directory, body, start = struct.pack("<HHH", 0, kind, len(entries)), b"", 6 + 16 * len(entries)
    for width, height, colours, bits, data in entries:
        directory += struct.pack(
            "<BBBBHHII", width % 256, height % 256, colours, 0, 1, bits, len(data), start + len(body)
        )
        body += data
    return directory + body
