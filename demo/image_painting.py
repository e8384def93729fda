"""What the images of the demo are painted with: colours, shapes, grounds and defects, from a given generator."""

import colorsys
import io
import math
import random
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from demo.image_questions import COLOURS

MIN_CONTRAST = 95.0
RECTANGLE_RATIO = (2.0, 3.0)
NOISE_BANK, NOISE_SIDE = 6, 640
HSV_RANGES = {
    "red": ((-12, 8), (0.75, 1), (0.65, 1)), "orange": ((24, 40), (0.85, 1), (0.9, 1)),
    "yellow": ((51, 62), (0.75, 1), (0.88, 1)),
    "green": ((98, 150), (0.55, 1), (0.4, 1)), "blue": ((205, 242), (0.65, 1), (0.5, 1)),
    "purple": ((270, 300), (0.55, 1), (0.4, 0.9)), "pink": ((325, 350), (0.23, 0.6), (0.92, 1)),
    "black": ((0, 360), (0, 0.5), (0, 0.12)), "white": ((0, 360), (0, 0.03), (0.95, 1)),
    "grey": ((0, 360), (0, 0.06), (0.36, 0.68)),
}  # fmt: skip

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]


def draw_colour(rng: random.Random, name: str) -> Rgb:
    """Return an RGB colour that people would call `name`."""
    hue, saturation, value = (rng.uniform(*span) for span in HSV_RANGES[name])
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))
    return red, green, blue


def contrast(first: Rgb, second: Rgb) -> float:
    """Return the Euclidean distance of two RGB colours, 0 to 442."""
    return math.dist(first, second)


def polygon(shape: str, size: float, rotation: float, ratio: float) -> list[tuple[float, float]]:
    """Return the corners of a shape about the origin, its larger side `size` pixels, rotated by `rotation` radians."""
    half = size / 2
    if shape == "square":
        corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    elif shape == "rectangle":
        corners = [(-half, -half / ratio), (half, -half / ratio), (half, half / ratio), (-half, half / ratio)]
    elif shape == "triangle":
        corners = [(0, -half * 0.94), (half, half * 0.8), (-half, half * 0.8)]
    elif shape == "star":
        radii = [half * (1.05 if i % 2 == 0 else 0.42) for i in range(10)]
        corners = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]
    else:
        arm = half * 0.34
        corners = [(-arm, -half), (arm, -half), (arm, -arm), (half, -arm), (half, arm), (arm, arm),
                   (arm, half), (-arm, half), (-arm, arm), (-half, arm), (-half, -arm), (-arm, -arm)]  # fmt: skip
    cos, sin = math.cos(rotation), math.sin(rotation)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def draw_rotation(rng: random.Random, shape: str) -> float:
    """Return a natural rotation in radians: a slight tilt, and quarter rotations of shapes that stay what they are."""
    tilt = rng.uniform(-0.12, 0.12) if rng.random() < 0.4 else 0.0
    if shape == "triangle" and rng.random() < 0.3:
        return tilt + rng.choice((1, 2, 3)) * math.pi / 2
    if shape == "rectangle" and rng.random() < 0.5:
        return tilt + math.pi / 2
    if shape == "cross" and rng.random() < 0.2:
        return tilt + math.pi / 4
    return tilt


def paint_shape(image: Image.Image, rng: random.Random, shape: str, fill: Rgb, size: float) -> Box:
    """Paint one shape of `size` pixels wholly inside the image; return its left, top, right and bottom, in pixels."""
    width, height = image.size
    x = rng.uniform(size / 2, width - size / 2) if width > size else width / 2
    y = rng.uniform(size / 2, height - size / 2) if height > size else height / 2
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        draw.ellipse(box, fill=fill)
        return box
    outline = polygon(shape, size, draw_rotation(rng, shape), rng.uniform(*RECTANGLE_RATIO))
    corners = [(x + dx, y + dy) for dx, dy in outline]
    draw.polygon(corners, fill=fill)
    across, down = zip(*corners, strict=True)
    return (min(across), min(down), max(across), max(down))


@cache
def noise_bank() -> list[NDArray[np.int16]]:
    """Return fixed int16 noise fields [side, side, 3] with unit steps of about 1/32 of a standard deviation."""
    generator = np.random.default_rng(0)
    return [(generator.standard_normal((NOISE_SIDE, NOISE_SIDE, 3)) * 32).astype(np.int16) for _ in range(NOISE_BANK)]


def add_noise(image: Image.Image, rng: random.Random, sigma: int) -> Image.Image:
    """Add grain of `sigma` levels from a random corner of the noise bank; images larger than the bank stay clean."""
    width, height = image.size
    if width > NOISE_SIDE or height > NOISE_SIDE:
        return image
    field = noise_bank()[rng.randrange(NOISE_BANK)]
    top, left = rng.randint(0, NOISE_SIDE - height), rng.randint(0, NOISE_SIDE - width)
    grain = field[top : top + height, left : left + width] * np.int16(sigma) // 32
    return Image.fromarray(np.clip(np.asarray(image).astype(np.int16) + grain, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after a round through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def draw_dimensions(rng: random.Random) -> tuple[int, int]:
    """Return (width, height) in pixels; most are squarish, some up to two to one either way."""
    side = rng.choice((rng.randint(64, 160), rng.randint(112, 224), rng.randint(140, 300)))
    roll = rng.random()
    ratio = 1.0 if roll < 0.4 else (rng.choice((4 / 3, 3 / 2, 16 / 9)) if roll < 0.75 else rng.uniform(1, 2))
    width, height = (side, round(side / ratio))
    return (width, height) if rng.random() < 0.5 else (height, width)


def draw_ground(rng: random.Random, avoid: Rgb | None, grey: bool, name: str = "") -> Rgb:
    """Return a ground colour far enough from `avoid`, and not of the same name."""
    while True:
        roll = rng.random()
        if grey:
            level = rng.choice((255, 0, 245, 20, rng.randint(60, 200)))
            ground = (level, level, level)
        elif roll < 0.35:
            ground = (255, 255, 255)
        elif roll < 0.75:
            other = rng.choice(list(COLOURS))
            if other == name:
                continue
            ground = draw_colour(rng, other)
        else:
            ground = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if avoid is None or contrast(ground, avoid) >= MIN_CONTRAST:
            return ground


def gradient(first: Rgb, second: Rgb, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Return a smooth blend of two colours over four corners."""
    corners = np.array(
        [[first, second], [second, first]] if rng.random() < 0.3 else [[first, first], [second, second]], np.uint8
    )
    if rng.random() < 0.5:
        corners = corners.transpose(1, 0, 2)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def near(rng: random.Random, colour: Rgb, reach: int) -> Rgb:
    """Return a colour within `reach` levels of another in each channel."""
    red, green, blue = (min(255, max(0, part + rng.randint(-reach, reach))) for part in colour)
    return red, green, blue


def spoil(image: Image.Image, rng: random.Random) -> Image.Image:
    """Add what cameras and sites add: grain, JPEG, a slight blur."""
    if rng.random() < 0.3:
        image = add_noise(image, rng, rng.randint(3, 12))
    if rng.random() < 0.05:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
    if rng.random() < 0.3:
        image = as_jpeg(image, rng.randint(45, 95))
    return image
