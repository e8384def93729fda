"""From the colours that a file means to those that a screen shows: conversion to sRGB by an ICC profile.

What files tell in other words (a gamma, code points) is made a profile first, so that one library does the conversion.
Sources: ICC.1:2022 (the profile's layout, clauses 7, 8.3.3 and 10), Rec. ITU-T H.273 (code points).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # those of presses have up to three
# The chromaticities x and y of white, red, green and blue.
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
REC_2020 = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
EBU = (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)
SMPTE = (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
CODED_PRIMARIES = {1: SRGB, 2: SRGB, 5: EBU, 6: SMPTE, 7: SMPTE, 9: REC_2020, 12: DISPLAY_P3}
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
# Which modes a profile's colour space speaks of, and the mode that comes out.
SPACES = {"RGB": {"RGB": "RGB", "RGBA": "RGBA"}, "GRAY": {"L": "RGB"}, "CMYK": {"CMYK": "RGB"}}
# The curves of code points (H.273, table 3): the power of a gamma, or parameters of a curve of type 3 (ICC.1, 10.18).
# Those of television are meant for screens of 2.4 (BT.1886).
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CODED_CURVES: dict[int, tuple[float, ...]] = {4: (2.2,), 5: (2.8,), 8: (1.0,), 13: SRGB_CURVE}
CODED_CURVES |= dict.fromkeys((1, 6, 11, 14, 15), (2.4,))
# How bright Chromium 150 shows greys of high dynamic range, by PQ and HLG, on a screen without it: levels of sRGB for
# each fifteenth of 255 levels.
SHOWN = {
    16: (0, 1, 4, 13, 26, 42, 61, 85, 114, 150, 193, 221, 242, 255, 255, 255, 255, 255),
    18: (0, 2, 13, 26, 39, 52, 66, 79, 92, 106, 122, 142, 166, 194, 214, 229, 243, 255),
}

Matrix = tuple[tuple[float, ...], ...]


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image in RGB or RGBA, converted by its profile if that is one for its mode.

    image: in one of the modes L, LA, RGB, RGBA and CMYK. A profile that cannot be used is none.
    """
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        try:
            return _converted(image, ImageCms.ImageCmsProfile(BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
            pass
    return image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """Raises KeyError where the profile is not for this mode, PyCMSError where it is none."""
    space = source.profile.xcolor_space.strip()
    if image.mode == "LA":
        grey, alpha = image.split()
        rgb = _converted(grey, source)
        rgb.putalpha(alpha)
        return rgb
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    mode = SPACES[space][image.mode]
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, mode)
    converted = ImageCms.applyTransform(image, transform, inPlace=mode == image.mode)
    return image if converted is None else converted


def is_profile(data: bytes) -> bool:
    """Whether data begin as a profile does (ICC.1, 7.2.12)."""
    return data[36:40] == b"acsp"


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Return the profile of code points of H.273, b"" for those of sRGB, None for unknown ones."""
    corners = CODED_PRIMARIES.get(primaries)
    if corners is None:
        return None
    if (corners, transfer) == (SRGB, 13):
        return b""
    if transfer in CODED_CURVES:
        return _profile(corners, _parametric(CODED_CURVES[transfer]))
    return _profile(corners, _sampled(SHOWN[transfer])) if transfer in SHOWN else None


def gamma_profile(gamma: float, chromaticities: Sequence[float] = SRGB) -> bytes | None:
    """Return the profile of colours whose values are the light to the power of 1 / gamma; None if there can be none.

    chromaticities: x and y of white, red, green and blue.
    """
    return _profile(chromaticities, _parametric((gamma,)))


def _parametric(values: Sequence[float]) -> bytes | None:
    """Return a curve of a function's parameters; None where it cannot hold them."""
    try:
        return struct.pack(f">4s4xHxx{len(values)}i", b"para", 0 if len(values) == 1 else 3, *map(_fixed, values))
    except struct.error:
        return None


def _sampled(shown: Sequence[int]) -> bytes:
    """Return the curve that makes levels of sRGB of evenly spaced levels."""
    between = [a + (b - a) * part / 15 for a, b in pairwise(shown) for part in range(15)]
    light = [_light(level / 255) for level in [*between, shown[-1]]]
    return struct.pack(f">4s4xI{len(light)}H", b"curv", len(light), *(round(65_535 * value) for value in light))


def _light(level: float) -> float:
    """Return the light of a level of sRGB, both from 0 to 1."""
    gamma, scale, offset, slope, start = SRGB_CURVE
    return (scale * level + offset) ** gamma if level >= start else slope * level


def _profile(chromaticities: Sequence[float], curve: bytes | None) -> bytes | None:
    """Return the profile of three colourants and a curve, None where it cannot hold their values."""
    if curve is None:
        return None
    try:
        colourants = _colourants(chromaticities)
        tags = [(b"wtpt", _xyz(D50))]
        tags += [(name, _xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colourants, strict=True)]
    except (ZeroDivisionError, struct.error):
        return None
    curve += bytes(-len(curve) % 4)
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    start, directory, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags:
        directory += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    total = start + len(body)
    head = struct.pack(">I4xI4s4s4s12x4s28x3i48x", total, 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp", *_d50())
    return head + struct.pack(">I", len(tags)) + directory + body


def _colourants(chromaticities: Sequence[float]) -> Matrix:
    """Return the XYZ of red, green and blue, adapted to D50. Raises ZeroDivisionError for what is no triangle."""
    white, *corners = (_from_xy(*chromaticities[at : at + 2]) for at in range(0, 8, 2))
    columns = _transposed(corners)
    scales = _times(_inverse(columns), white)
    adaptation = _adaptation(white)
    return tuple(
        _times(adaptation, tuple(scale * value for value in corner))
        for scale, corner in zip(scales, corners, strict=True)
    )


def _from_xy(x: float, y: float) -> tuple[float, ...]:
    return x / y, 1.0, (1 - x - y) / y


def _adaptation(white: Sequence[float]) -> Matrix:
    """Return the matrix that adapts colours under a white to D50 (Bradford; ICC.1, annex E)."""
    ratios = [to / of for to, of in zip(_times(BRADFORD, D50), _times(BRADFORD, white), strict=True)]
    scaled = tuple(tuple(ratio * value for value in row) for ratio, row in zip(ratios, BRADFORD, strict=True))
    inverse = _inverse(BRADFORD)
    return _transposed([_times(inverse, column) for column in _transposed(scaled)])


def _transposed(rows: Sequence[Sequence[float]]) -> Matrix:
    return tuple(zip(*rows, strict=True))


def _times(matrix: Matrix, vector: Sequence[float]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of a 3 x 3 matrix."""
    a, b, c = matrix
    cofactors = _cross(b, c), _cross(c, a), _cross(a, b)
    determinant = sum(x * y for x, y in zip(a, cofactors[0], strict=True))
    return _transposed([tuple(value / determinant for value in row) for row in cofactors])


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _fixed(value: float) -> int:
    """Return a number as ICC's s15Fixed16Number."""
    return round(value * 65_536)


def _xyz(value: Sequence[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *map(_fixed, value))


def _d50() -> tuple[int, ...]:
    return tuple(map(_fixed, D50))
