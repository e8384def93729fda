"""Seeded images for the image demo: one shape, a plain ground, or something that cannot be made out.

An image is a function of its seed and regime alone. Training draws seeds below TRAINING_SEEDS, the evaluation above.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.image_painting import (
    MIN_CONTRAST,
    Rgb,
    add_noise,
    contrast,
    draw_colour,
    draw_dimensions,
    draw_ground,
    gradient,
    near,
    paint_shape,
    spoil,
)
from demo.image_questions import COLOURS, SHAPES

TRAINING_SEEDS = 10**9
TRAINED_SIZES = (0.25, 0.80)
OUTSIDE_SIZES = ((0.20, 0.25), (0.80, 0.92))
SMALL_SIZES = (0.25, 0.40)
EDGE_SIZES = ((0.25, 0.30), (0.25, 0.30), (0.72, 0.80))
LARGEST = 0.95
CLEAN_SIZES = (0.45, 0.75)
EASY_SIZES = (0.40, 0.80)
GREY_LEVELS = {"black": (0, 28), "grey": (92, 172), "white": (243, 255)}


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labels; kind is "shape", "plain" or "unclear", and unknown parts are empty.

    `box` is left, top, right and bottom of a shape, as shares of the image's sides.
    """

    image: Image.Image
    kind: str
    shape: str = ""
    colour: str = ""
    box: tuple[float, ...] = ()


def shape_image(
    rng: random.Random, sizes: tuple[float, float], clean: bool, shapes: Sequence[str] = tuple(SHAPES)
) -> LabelledImage:
    """Draw one shape of `shapes`; `sizes` is its larger side over the root of the image's area."""
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
    shares = tuple(edge / side for edge, side in zip(box, canvas * 2, strict=True))
    if scale > 1:
        image = image.resize((width, height), Image.Resampling.BOX)
    return LabelledImage(image if clean else spoil(image, rng), "shape", shape, colour, shares)


def plain_image(rng: random.Random) -> LabelledImage:
    """Draw a ground of one named colour and nothing on it."""
    colour = rng.choice(list(COLOURS))
    image = Image.new("RGB", draw_dimensions(rng), draw_colour(rng, colour))
    if rng.random() < 0.3:
        image = add_noise(image, rng, rng.randint(2, 8))
    return LabelledImage(image, "plain", "", colour)


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
    ground = cast(Rgb, image.getpixel((0, 0)))  # the mode is RGB
    for _ in range(rng.randint(2, 6) if style == "shapes" else rng.randint(5, 14)):
        fill = draw_ground(rng, ground, False)
        if style == "shapes":
            paint_shape(image, rng, rng.choice(list(SHAPES)), fill, rng.uniform(0.22, 0.5) * min(size))
        elif style == "lines":
            ends = [rng.uniform(0, side) for side in (*size, *size)]
            draw.line(ends, fill=fill, width=rng.randint(1, 6))
        else:
            corner = (rng.uniform(0, size[0] * 0.8), rng.uniform(0, size[1] * 0.9))
            draw.text(
                corner,
                "".join(rng.choice("abcdefgmnorstwABDEGHKR0123456789") for _ in range(6)),  # pragma: allowlist secret
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


def unclear_image(rng: random.Random) -> LabelledImage:
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
    return LabelledImage(spoil(image, rng) if roll < 0.8 else image, "unclear")


def draw_image(seed: int, regime: str = "trained") -> LabelledImage:
    """Draw the image of a seed.

    Regimes: "trained", "easy", "small", "edges" (small or large), "sides" (squares and rectangles alone), all inside
    the trained range, "outside" (outside it), "clean" (no grain) draw a shape; "plain", "unclear" and "grey" (a shape
    in a one-channel image) draw what they say.
    """
    rng = random.Random(f"{regime}:{seed}")
    if regime == "plain":
        return plain_image(rng)
    if regime == "unclear":
        return unclear_image(rng)
    if regime == "grey":
        return grey_image(rng)
    if regime == "sides":
        return shape_image(rng, TRAINED_SIZES, False, ("square", "rectangle"))
    if regime in ("edges", "outside"):
        return shape_image(rng, rng.choice(EDGE_SIZES if regime == "edges" else OUTSIDE_SIZES), False)
    sizes = {
        "trained": TRAINED_SIZES,
        "easy": EASY_SIZES,
        "small": SMALL_SIZES,
        "clean": CLEAN_SIZES,
    }[regime]
    return shape_image(rng, sizes, regime == "clean")


def grey_image(rng: random.Random) -> LabelledImage:
    """Draw a shape into a one-channel image (mode "L"), black, grey or white."""
    while True:
        labelled = shape_image(rng, TRAINED_SIZES, False)
        if labelled.colour in GREY_LEVELS:
            return replace(labelled, image=labelled.image.convert("L"))
