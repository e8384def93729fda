"""Decoding and resizing of one image, and the seam behind which that happens: `ImageDecoder`.

The service decodes in processes (`engine.text.image_workers`); `InProcessDecoder` does it in the caller's thread, for
programs that trust their images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from engine.errors import Message, ValidationError
from engine.text.images import decode
from engine.types import EncodedImage
from engine.wanted import Wanted

MAX_ASPECT = 200
SHAPE = Message("image_shape", "The image's shape is not one that this model can read.")


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image: RGB, row by row, 3 bytes a pixel."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A file to decode, and the size of the result.

    factor, min_pixels, max_pixels: as `fitted` takes them; for a thumbnail factor is 0 and max_pixels its longest side.
    resample: Pillow's filter.
    """

    data: bytes
    factor: int
    min_pixels: int
    max_pixels: int
    resample: int = Image.Resampling.BICUBIC


class ImageDecoder(Protocol):
    """Decodes images. `decode` may be called from any thread between `start` and `stop`."""

    @property
    def restarts(self) -> int:
        """How many processes had to be replaced so far."""

    def start(self) -> None:
        """Get ready. Raises StartError."""

    def stop(self) -> None:
        """End what is under way; may be called again."""

    def decode(self, job: Job, wanted: Wanted) -> Pixels:
        """Return the pixels of an image.

        Raises ValidationError for a file that cannot be decoded, or not in its time; RequestAborted, DeadlineExceeded
        where nobody waits any longer; Overloaded where there is too little memory for it; NotReady once stopped.
        """


class InProcessDecoder:
    """Decodes in the caller's thread; what has begun is not interrupted."""

    restarts = 0

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def decode(self, job: Job, wanted: Wanted) -> Pixels:
        wanted.check()
        image = resized(job)
        wanted.check()
        return Pixels(*image.size, image.tobytes())


def fitted(width: int, height: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the width and height that the model reads an image in: multiples of `factor`, about the same shape, and
    between `min_pixels` and `max_pixels` in all. Raises ValidationError for a shape that no model reads.

    Source: the image processor of Qwen2-VL.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValidationError(SHAPE, "image")
    near = [round(side / factor) * factor for side in (width, height)]
    if near[0] * near[1] > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        near = [max(factor, math.floor(side / scale / factor) * factor) for side in (width, height)]
    elif near[0] * near[1] < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        near = [math.ceil(side * scale / factor) * factor for side in (width, height)]
    return near[0], near[1]


def resized(job: Job) -> Image.Image:
    """Return an image as the model reads it, or as a thumbnail, in RGB. Raises ServiceError."""
    image = decode(EncodedImage(job.data, 0, 0))
    if job.factor == 0:
        image.thumbnail((job.max_pixels, job.max_pixels))
        return image
    size = fitted(*image.size, job.factor, job.min_pixels, job.max_pixels)
    return image.resize(size, Image.Resampling(job.resample))
