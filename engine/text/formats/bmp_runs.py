"""The run-length encodings of BMP: 4 and 8 bits of Windows, 24 bits of OS/2."""

from __future__ import annotations

from engine.text.formats.layer import Damaged

END_OF_ROW, END, DELTA = 0, 1, 2


def unpacked_runs(data: bytes, width: int, height: int, depth: int) -> tuple[bytearray, bytearray]:
    """Return pixels in the order of their rows, and which of them the runs have reached.

    depth: 4, 8 (indices, a byte each) or 24 (three bytes each). Raises Damaged where the data end before the last row,
    or leave it.
    """
    size, total = 3 if depth == 24 else 1, width * height
    pixels, seen = bytearray(size * total), bytearray(b"\1") * total
    position, at, row_end = 0, 0, width
    while at < total:
        if position + 1 + size > len(data):
            raise Damaged
        count, code = data[position], data[position + 1]
        position += 2
        if count:
            position += size - 1
            count = min(count, row_end - at)  # some programs make the last run of a row too long
            pixels[size * at : size * (at + count)] = _repeated(data[position - size : position], count, depth)
            at += count
        elif code > DELTA:
            used = (code * depth + 7) // 8
            colours = _literal(data[position : position + used], code, depth)
            if code > row_end - at or len(colours) < size * code:
                raise Damaged
            pixels[size * at : size * (at + code)] = colours
            position += used + used % 2
            at += code
        else:
            to = total if code == END else row_end
            if code == DELTA:
                if position + 2 > len(data) or data[position] > row_end - at:
                    raise Damaged
                right, up = data[position], data[position + 1]
                position += 2
                to, row_end = at + right + up * width, row_end + up * width
            elif code == END_OF_ROW:
                row_end += width
            to = min(to, total)
            seen[at:to] = bytes(to - at)  # what is skipped
            at = to
    return pixels, seen


def _repeated(colour: bytes, count: int, depth: int) -> bytes:
    if depth == 4:
        return (bytes((colour[0] >> 4, colour[0] & 15)) * (count // 2 + 1))[:count]
    return colour * count


def _literal(colours: bytes, count: int, depth: int) -> bytes:
    if depth == 4:
        return b"".join(bytes((pair >> 4, pair & 15)) for pair in colours)[:count]
    return colours
