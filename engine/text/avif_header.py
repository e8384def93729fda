"""Reads what the boxes of an AVIF file tell of its picture, without a decoder and in a bounded number of steps.

Sources: ISO 14496-12 (boxes, 4.2; tracks, 8.3.2), ISO 23008-12 (items and their properties, 6.5 and 9.3), AV1 Image
File Format 1.1 (brands, section 6).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

STEPS = 1024  # boxes and associations; files have some dozens, those of grids some hundred
FULL = 4  # bytes of version and flags, with which some boxes begin
SEQUENCE = b"avis"
AVIF = frozenset((b"avif", SEQUENCE))
HEIF = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
MOST_BRANDS = 256  # bytes

Box = tuple[bytes, int, int]  # the kind, where the content starts, and where it ends


class NoPicture(Exception):
    """The boxes are not those of a picture."""


@dataclass(frozen=True, slots=True)
class AvifPicture:
    """The stored size, and the code points of primaries and transfer (H.273), (2, 2) where they are not told.

    associations: where the boxes start that tell which properties belong to which item. exif: where the kinds of items
    stand that are EXIF data.
    """

    width: int
    height: int
    code_points: tuple[int, int] = (2, 2)
    associations: tuple[int, ...] = ()
    exif: tuple[int, ...] = ()


def is_avif(data: bytes) -> bool:
    """Whether a file says that it is AVIF, be it as one of several things."""
    return not AVIF.isdisjoint(_brands(data))


def is_heic(data: bytes) -> bool:
    """Whether a file says that it is HEIC, or another kind of HEIF."""
    return not HEIF.isdisjoint(_brands(data))


def _brands(data: bytes) -> set[bytes]:
    """Return what a file says that it is."""
    if data[4:8] != b"ftyp":
        return set()
    listed = data[8 : min(int.from_bytes(data[:4]), MOST_BRANDS)]
    return {listed[at : at + 4] for at in range(0, len(listed), 4) if at != 4}  # between them stands a version


def read_avif(data: bytes) -> AvifPicture:
    """Return the primary picture, of a sequence its track. Raises NoPicture."""
    try:
        return _Reader(data).picture()
    except (struct.error, LookupError):
        raise NoPicture from None


class _Reader:
    """Reads one file; the walks over its boxes share one number of steps."""

    def __init__(self, data: bytes) -> None:
        self._data, self._steps = data, STEPS
        self._associations: list[int] = []

    def picture(self) -> AvifPicture:
        top = self._inside(0, len(self._data))
        properties = self._properties(top[b"meta"]) if b"meta" in top else []
        size = self._track(top[b"moov"]) if self._data[8:12] == SEQUENCE and b"moov" in top else None
        if size is None:
            place = next((start for kind, start, _ in properties if kind == b"ispe"), None)
            if place is None:
                raise NoPicture
            width, height = self._unpack(">II", place + FULL)
            size = width, height
        code_points = next((_code_points(self._data, box) for box in properties if self._is_nclx(box)), (2, 2))
        exif = tuple(self._exif(top[b"meta"])) if b"meta" in top else ()
        return AvifPicture(*size, code_points, tuple(self._associations), exif)

    def _exif(self, meta: Box) -> Iterator[int]:
        """Yield where the kinds of items stand that are EXIF data."""
        items = self._inside(meta[1] + FULL, meta[2]).get(b"iinf")
        if items is None:
            return
        wide = self._data[items[1]] > 0
        for kind, start, _ in self._boxes(items[1] + FULL + (4 if wide else 2), items[2]):
            place = start + (10 if self._data[start] > 2 else 8)
            if kind == b"infe" and self._data[place : place + 4] == b"Exif":
                yield place

    def _properties(self, meta: Box) -> list[Box]:
        """Return the properties of the primary item."""
        inside = self._inside(meta[1] + FULL, meta[2])
        item = self._unpack(">I" if self._data[inside[b"pitm"][1]] else ">H", inside[b"pitm"][1] + FULL)[0]
        parts = list(self._boxes(*inside[b"iprp"][1:]))
        known = [box for kind, *inner in parts if kind == b"ipco" for box in self._boxes(*inner)]
        numbers = [number for box in parts if box[0] == b"ipma" for number in self._associated(box, item)]
        return [known[number - 1] for number in numbers if 0 < number <= len(known)]

    def _associated(self, box: Box, item: int) -> Iterator[int]:
        """Yield the numbers of the properties that a box associates with an item."""
        start = box[1]
        self._associations.append(start)
        wide_items, wide_numbers = self._data[start] > 0, self._data[start + 3] & 1
        (count,) = self._unpack(">I", start + FULL)
        position = start + FULL + 4
        for _ in range(count):
            self._step()
            (found,) = self._unpack(">I" if wide_items else ">H", position)
            position += 4 if wide_items else 2
            length = self._data[position]
            position += 1
            if found == item:
                for at in range(length):
                    self._step()
                    number = self._unpack(">H" if wide_numbers else ">B", position + at * (1 + wide_numbers))[0]
                    yield number & (0x7FFF if wide_numbers else 0x7F)
            position += length * (1 + wide_numbers)

    def _track(self, movie: Box) -> tuple[int, int] | None:
        """Return the size of the first track that has one."""
        for kind, *inner in self._boxes(*movie[1:]):
            header = self._inside(*inner).get(b"tkhd") if kind == b"trak" else None
            if header is not None:
                width, height = self._unpack(">II", header[1] + (88 if self._data[header[1]] else 76))
                if width and height:
                    return width >> 16, height >> 16
        return None

    def _is_nclx(self, box: Box) -> bool:
        return box[0] == b"colr" and self._data[box[1] : box[1] + 4] == b"nclx"

    def _inside(self, start: int, end: int) -> dict[bytes, Box]:
        """Return the boxes of a range, of each kind the first."""
        return {box[0]: box for box in reversed([*self._boxes(start, end)])}

    def _boxes(self, start: int, end: int) -> Iterator[Box]:
        while start + 8 <= end:
            self._step()
            kind, (size,), head = self._data[start + 4 : start + 8], self._unpack(">I", start), 8
            if size == 1:
                (size,), head = self._unpack(">Q", start + 8), 16
            stop = min(start + size, end) if size else end  # 0: to the end
            if stop < start + head:
                raise NoPicture
            yield kind, start + head, stop
            start = stop

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise NoPicture

    def _unpack(self, fields: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(fields, self._data, offset)


def _code_points(data: bytes, box: Box) -> tuple[int, int]:
    primaries, transfer = struct.unpack_from(">HH", data, box[1] + 4)
    return primaries, transfer
