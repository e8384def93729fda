"""The images of one question: how many there may be, how large they may be together, and which of them is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.errors import Message, PayloadTooLarge, ValidationError
from engine.text.images import MAX_IMAGES, MAX_IMAGES_BYTES, TOO_LARGE_TOGETHER, TOO_MANY, check_header, one_of
from engine.types import EncodedImage

T = TypeVar("T")


def checked(sources: Sequence[T], read: Callable[[T], bytes]) -> tuple[EncodedImage, ...]:
    """Return the images of a question. read: returns the bytes of a source, one after the other.

    Raises ValidationError for none and for too many, PayloadTooLarge, and as `read` and `check_header` do, with the
    number of the image in the message where there are several.
    """
    if not sources:
        raise ValidationError(Message("image_missing", "image is required."), "image")
    if len(sources) > MAX_IMAGES:
        raise ValidationError(TOO_MANY, "image")
    images, size = list[EncodedImage](), 0
    for number, source in enumerate(sources, 1):
        with one_of(number, len(sources)):
            images.append(check_header(read(source)))
        size += len(images[-1].data)
        if size > MAX_IMAGES_BYTES:
            raise PayloadTooLarge(TOO_LARGE_TOGETHER)
    return tuple(images)
