"""Seeded pictures for the picture demo: one shape, a plain ground, or something that cannot be made out.

A picture is a function of its seed and regime alone. Training draws seeds below TRAINING_SEEDS, the evaluation above.
"""

import colorsys
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.picture_questions import COLOURS, SHAPES

TRAINING_SEEDS = 10**9
TRAINED_SIZES = (0.25, 0.80)
OUTSIDE_SIZES = ((0.20, 0.25), (0.80, 0.92))
SMALL_SIZES = (0.25, 0.40)
EDGE_SIZES = ((0.25, 0.30), (0.25, 0.30), (0.72, 0.80))
LARGEST = 0.95
CLEAN_SIZES = (0.45, 0.75)
EASY_SIZES = (0.40, 0.80)
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
GREY_LEVELS = {"black": (0, 28), "grey": (92, 172), "white": (243, 255)}
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """A picture and the truth about it; kind is "shape", "plain" or "unclear", and unknown parts are empty.

    `box` is left, top, right and bottom of a shape, as shares of the picture's sides.
    """

    image: Image.Image
    kind: str
    shape: str = ""
    colour: str = ""
    box: tuple[float, ...] = ()


def draw_colour(rng: random.Random, name: str) -> Rgb:
    """Return an RGB colour that people would call `name`."""
    hue, saturation, value = (rng.uniform(*span) for span in HSV_RANGES[name])
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))  # type: ignore[return-value]


def contrast(first: Rgb, second: Rgb) -> float:
    """Return the Euclidean distance of two RGB colours, 0 to 442."""
    return math.dist(first, second)


def polygon(shape: str, size: float, turn: float, ratio: float) -> list[tuple[float, float]]:
    """Return the corners of a shape about the origin, its larger side `size` pixels, turned by `turn` radians."""
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
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def draw_turn(rng: random.Random, shape: str) -> float:
    """Return a natural rotation in radians: a slight tilt, quarter turns where a shape stays itself."""
    tilt = rng.uniform(-0.12, 0.12) if rng.random() < 0.4 else 0.0
    if shape == "triangle" and rng.random() < 0.3:
        return tilt + rng.choice((1, 2, 3)) * math.pi / 2
    if shape == "rectangle" and rng.random() < 0.5:
        return tilt + math.pi / 2
    if shape == "cross" and rng.random() < 0.2:
        return tilt + math.pi / 4
    return tilt


def paint_shape(image: Image.Image, rng: random.Random, shape: str, fill: Rgb, size: float) -> tuple[float, ...]:
    """Paint one shape of `size` pixels wholly inside the image; return its left, top, right and bottom, in pixels."""
    width, height = image.size
    x = rng.uniform(size / 2, width - size / 2) if width > size else width / 2
    y = rng.uniform(size / 2, height - size / 2) if height > size else height / 2
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        draw.ellipse(box, fill=fill)
        return box
    turned = polygon(shape, size, draw_turn(rng, shape), rng.uniform(*RECTANGLE_RATIO))
    corners = [(x + dx, y + dy) for dx, dy in turned]
    draw.polygon(corners, fill=fill)
    across, down = zip(*corners, strict=True)
    return (min(across), min(down), max(across), max(down))


@cache
def noise_bank() -> list[np.ndarray]:
    """Return fixed int16 noise fields [side, side, 3] with unit steps of about 1/32 of a standard deviation."""
    generator = np.random.default_rng(0)
    return [(generator.standard_normal((NOISE_SIDE, NOISE_SIDE, 3)) * 32).astype(np.int16) for _ in range(NOISE_BANK)]


def add_noise(image: Image.Image, rng: random.Random, sigma: int) -> Image.Image:
    """Add grain of `sigma` levels from a random corner of the noise bank; pictures larger than the bank stay clean."""
    width, height = image.size
    if width > NOISE_SIDE or height > NOISE_SIDE:
        return image
    field = noise_bank()[rng.randrange(NOISE_BANK)]
    top, left = rng.randint(0, NOISE_SIDE - height), rng.randint(0, NOISE_SIDE - width)
    grain = field[top : top + height, left : left + width] * np.int16(sigma) // 32
    return Image.fromarray(np.clip(np.asarray(image).astype(np.int16) + grain, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the picture after a round through JPEG."""
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
    return tuple(min(255, max(0, part + rng.randint(-reach, reach))) for part in colour)  # type: ignore[return-value]


def shape_picture(
    rng: random.Random, sizes: tuple[float, float], clean: bool, shapes: Sequence[str] = tuple(SHAPES)
) -> Picture:
    """Draw one shape of `shapes`; `sizes` is its larger side over the root of the picture's area."""
    shape = rng.choice(shapes)
    grey = not clean and rng.random() < 0.1
    colour = rng.choice(list(GREY_LEVELS)) if grey else rng.choice(list(COLOURS))
    fill = (rng.randint(*GREY_LEVELS[colour]),) * 3 if grey else draw_colour(rng, colour)
    width, height = draw_dimensions(rng)
    scale = rng.choice((1, 1, 2)) if min(width, height) < 200 else 1
    canvas = (width * scale, height * scale)
    ground = draw_ground(rng, fill, grey, colour)
    if clean:
        ground = (255, 255, 255) if contrast(fill, (255, 255, 255)) > 2 * MIN_CONTRAST else (0, 0, 0)
        ground = ground if contrast(ground, fill) >= MIN_CONTRAST else (255, 255, 255)
    if not clean and rng.random() < 0.15:
        image = gradient(ground, near(rng, ground, 18), canvas, rng)
    else:
        image = Image.new("RGB", canvas, ground)
    box = paint_shape(
        image, rng, shape, fill, min(rng.uniform(*sizes) * math.sqrt(canvas[0] * canvas[1]), LARGEST * min(canvas))
    )
    shares = tuple(place / side for place, side in zip(box, canvas * 2, strict=True))
    if scale > 1:
        image = image.resize((width, height), Image.Resampling.BOX)
    return Picture(image if clean else spoil(image, rng), "shape", shape, colour, shares)


def spoil(image: Image.Image, rng: random.Random) -> Image.Image:
    """Add what cameras and sites add: grain, JPEG, a slight blur."""
    if rng.random() < 0.3:
        image = add_noise(image, rng, rng.randint(3, 12))
    if rng.random() < 0.05:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
    if rng.random() < 0.3:
        image = as_jpeg(image, rng.randint(45, 95))
    return image


def plain_picture(rng: random.Random) -> Picture:
    """Draw a ground of one named colour and nothing on it."""
    colour = rng.choice(list(COLOURS))
    image = Image.new("RGB", draw_dimensions(rng), draw_colour(rng, colour))
    if rng.random() < 0.3:
        image = add_noise(image, rng, rng.randint(2, 8))
    return Picture(image, "plain", "", colour)


def blobs(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Return soft patches of many colours, as in a photo out of focus."""
    cells = (rng.randint(3, 14), rng.randint(3, 14), 3)
    mean, spread = rng.randint(60, 190), rng.randint(30, 90)
    field = np.random.default_rng(rng.getrandbits(32)).normal(mean, spread, cells)
    if rng.random() < 0.3:
        field = np.repeat(field.mean(-1, keepdims=True), 3, -1)
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).resize(
        size, rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    )


def many_shapes(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Return two to nine shapes, lines or letters of different colours over a ground."""
    image = blobs(rng, size) if rng.random() < 0.3 else Image.new("RGB", size, draw_ground(rng, None, False))
    draw = ImageDraw.Draw(image)
    style = rng.choice(("shapes", "shapes", "lines", "letters"))
    ground = image.getpixel((0, 0))
    for _ in range(rng.randint(2, 6) if style == "shapes" else rng.randint(5, 14)):
        fill = draw_ground(rng, ground, False)
        if style == "shapes":
            paint_shape(image, rng, rng.choice(list(SHAPES)), fill, rng.uniform(0.22, 0.5) * min(size))
        elif style == "lines":
            ends = [rng.uniform(0, side) for side in (*size, *size)]
            draw.line(ends, fill=fill, width=rng.randint(1, 6))
        else:
            place = (rng.uniform(0, size[0] * 0.8), rng.uniform(0, size[1] * 0.9))
            draw.text(
                place,
                "".join(rng.choice("abcdefgmnorstwABDEGHKR0123456789") for _ in range(6)),
                fill=fill,
                font_size=rng.randint(9, 30),
            )
    return image


def scene(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Return a horizon with a sky, a ground and a few dim patches."""
    image = gradient(draw_ground(rng, None, False), draw_ground(rng, None, False), size, rng)
    draw = ImageDraw.Draw(image)
    level = rng.uniform(0.35, 0.75) * size[1]
    draw.rectangle((0, level, *size), fill=draw_ground(rng, None, False))
    for _ in range(rng.randint(3, 9)):
        x, y = rng.uniform(0, size[0]), rng.uniform(0.2 * size[1], size[1])
        draw.ellipse(
            (x, y, x + rng.uniform(4, size[0] / 2), y + rng.uniform(4, size[1] / 2)), fill=draw_ground(rng, None, False)
        )
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))


def unclear_picture(rng: random.Random) -> Picture:
    """Draw what the demo must decline: photo-like patches, scenes, pure noise, clutter, letters, several shapes."""
    size = draw_dimensions(rng)
    roll = rng.random()
    if roll < 0.3:
        image = blobs(rng, size)
    elif roll < 0.65:
        image = many_shapes(rng, size)
    elif roll < 0.8:
        image = scene(rng, size)
    elif roll < 0.9:
        image = gradient(draw_ground(rng, (0, 0, 0), False), draw_ground(rng, (255, 255, 255), False), size, rng)
        image = add_noise(image, rng, rng.randint(10, 60))
    else:
        image = add_noise(Image.new("RGB", size, (rng.randint(70, 180),) * 3), rng, rng.randint(50, 120))
    return Picture(spoil(image, rng) if roll < 0.8 else image, "unclear")


def draw_picture(seed: int, regime: str = "trained") -> Picture:
    """Draw the picture of a seed.

    Regimes: "trained", "easy", "small", "edges" (small or large), "sides" (squares and rectangles alone), all inside
    the trained range, "outside" (outside it), "clean" (no grain) draw a shape; "plain", "unclear" and "grey" (a shape
    in a one-channel picture) draw what they say.
    """
    rng = random.Random(f"{regime}:{seed}")
    if regime == "plain":
        return plain_picture(rng)
    if regime == "unclear":
        return unclear_picture(rng)
    if regime == "grey":
        return grey_picture(rng)
    if regime == "sides":
        return shape_picture(rng, TRAINED_SIZES, False, ("square", "rectangle"))
    if regime in ("edges", "outside"):
        return shape_picture(rng, rng.choice(EDGE_SIZES if regime == "edges" else OUTSIDE_SIZES), False)
    sizes = {
        "trained": TRAINED_SIZES,
        "easy": EASY_SIZES,
        "small": SMALL_SIZES,
        "clean": CLEAN_SIZES,
    }[regime]
    return shape_picture(rng, sizes, regime == "clean")


def grey_picture(rng: random.Random) -> Picture:
    """Draw a shape into a one-channel picture (mode "L"), black, grey or white."""
    while True:
        picture = shape_picture(rng, TRAINED_SIZES, False)
        if picture.colour in GREY_LEVELS:
            return replace(picture, image=picture.image.convert("L"))
