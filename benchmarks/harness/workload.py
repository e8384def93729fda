"""Seeded workloads: prompts, answer lengths, images and arrival times. The same seed gives the same workload."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

# Words with their length in tokens, after a space, in the benchmark tokenizer.
WORDS = {
    "bicycle": 5, "sofa": 2, "phone": 3, "red": 2, "old": 4, "new": 2, "city": 5, "price": 4, "good": 2, "box": 2,
    "garage": 3, "winter": 5, "table": 2, "lamp": 3, "book": 2, "chair": 5, "camera": 5, "road": 2,
}  # fmt: skip
TEMPLATE_TOKENS = 13
# These bounds give chat prompts of 55 to 242 tokens, about 148 on average.
FEWEST_TOKENS, MOST_TOKENS = 60, 241
SHORTEST_ANSWER, LONGEST_ANSWER = 8, 256
IMAGE_SIDES = (112, 224)
SHAPES = 6


@dataclass(frozen=True, slots=True)
class Job:
    """One request. image: a PNG, or None."""

    prompt: str
    max_tokens: int
    temperature: float
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The kind of requests. tokens: the length of each answer; mixed: random lengths from 8 to 256 instead."""

    tokens: int = 64
    temperature: float = 0.7
    mixed: bool = False
    images: bool = False

    def jobs(self, count: int, *seed: object) -> list[Job]:
        """Return `count` requests. seed: anything that identifies this load; equal seeds give equal requests."""
        rng = random.Random(repr(seed))
        return [self._job(rng) for _ in range(count)]

    def _job(self, rng: random.Random) -> Job:
        tokens = rng.randint(SHORTEST_ANSWER, LONGEST_ANSWER) if self.mixed else self.tokens
        return Job(prompt(rng), tokens, self.temperature, draw_image(rng) if self.images else None)


def prompt(rng: random.Random) -> str:
    """Return a prompt of words; its length in tokens is uniformly distributed."""
    left = rng.randint(FEWEST_TOKENS, MOST_TOKENS) - TEMPLATE_TOKENS
    words, vocabulary = [], list(WORDS)
    while WORDS[word := rng.choice(vocabulary)] <= left:
        words.append(word)
        left -= WORDS[word]
    return " ".join(words)


def draw_image(rng: random.Random, sides: tuple[int, int] = IMAGE_SIDES) -> bytes:
    """Return a PNG of coloured rectangles, each side between the two `sides` in pixels; repeats are unlikely."""
    width, height = rng.randint(*sides), rng.randint(*sides)
    image = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        left, top = rng.randrange(width), rng.randrange(height)
        draw.rectangle((left, top, left + width // 3, top + height // 3), fill=_colour(rng))
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def arrivals(rate: float, seconds: float, *seed: object) -> Iterator[float]:
    """Yield the arrival times of a Poisson process, in seconds from its start. rate: requests per second on average."""
    rng = random.Random(repr(seed))
    arrival = rng.expovariate(rate)
    while arrival < seconds:
        yield arrival
        arrival += rng.expovariate(rate)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
