"""Loads the tokenizer and the image processor of a checkpoint, and prepares images for the vision model.

Without torchvision the processor of transformers cannot be built, because of its video part only; the same processor
without that part is used instead. Images are processed by the Pillow implementation in both cases, so the pixels do not
depend on the installed packages.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

from engine.errors import Message, ValidationError
from engine.text.images import decode
from engine.types import EncodedImage

log = logging.getLogger("avito_ai.loading")

# Never downloads and never runs code from a checkpoint.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True, eq=False)
class ImageInputs:
    """The images of one prompt: pixel_values [patches, channels] float32, grid_thw [images, 3] int64.

    hashes: SHA-256 of the pixels and the grid of each image, equal exactly if the model gets the same input.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    hashes: tuple[bytes, ...]


class ImagePreparer:
    """Converts encoded images to patches. Thread-safe.

    processor: the processor of a Qwen2.5-VL checkpoint. max_tokens: limit of the tokens of all images of one prompt;
    larger images are scaled down, in the same way as for the limit of the processor itself.
    """

    def __init__(self, processor: Any, max_tokens: int) -> None:
        self._processor = processor.image_processor
        self._max_tokens = max_tokens
        self._merge = int(self._processor.merge_size) ** 2
        self._token_pixels = int(self._processor.patch_size) ** 2 * self._merge
        self.pad_token_id = int(processor.image_token_id)
        self.video_token_id = int(processor.video_token_id)

    def prepare(self, images: tuple[EncodedImage, ...]) -> ImageInputs:
        """Decode, scale and split the images. Raises ValidationError for a damaged image or an extreme aspect ratio."""
        size = self._size(len(images))
        parts = [self._patches(image, size) for image in images]
        hashes = tuple(_digest(pixels, grid) for pixels, grid in parts)
        return ImageInputs(torch.cat([pixels for pixels, _ in parts]), torch.cat([grid for _, grid in parts]), hashes)

    def token_counts(self, images: ImageInputs) -> list[int]:
        """Return the number of tokens of each image."""
        return [count // self._merge for count in images.grid_thw.prod(dim=1).tolist()]

    def _patches(self, image: EncodedImage, size: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = decode(image)
        try:
            inputs = self._processor(images=[pixels], size=size, return_tensors="pt")
        except ValueError as error:
            message = Message("image_shape", "The image's shape is not one that this model can read.")
            raise ValidationError(message, "image") from error
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def _size(self, count: int) -> dict[str, int]:
        """Return the limits of the processor, in pixels, for each of `count` images."""
        shortest, longest = self._processor.size["shortest_edge"], self._processor.size["longest_edge"]
        share = self._max_tokens // count * self._token_pixels
        return {"shortest_edge": shortest, "longest_edge": max(shortest, min(longest, share))}


class _ImagesOnly(Qwen2_5_VLProcessor):
    """The processor of transformers without its video part, the only part that needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
    ) -> None:
        base: Any = super()
        base.__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from local files. Raises OSError or ValueError if they are missing or broken.

    The Qwen class of transformers builds its own pre-tokenizer and decoder and ignores those in `tokenizer.json`. For a
    retrained tokenizer both are wrong: prompts are split differently than in training, and SentencePiece markers stay
    in decoded text. If the two differ, the tokenizer is loaded as the file defines it.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_LOCAL)  # nosec B615 # local
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer has no tokenizer.json")
    file = folder / "tokenizer.json"
    if file.exists() and _pipeline(file.read_text("utf-8")) != _pipeline(tokenizer.backend_tokenizer.to_str()):
        log.info("The tokenizer in %s has its own pipeline.", folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **_LOCAL)  # nosec B615 # local
    return tokenizer


def _pipeline(state: str) -> dict[str, Any]:
    """Return everything that determines how a tokenizer splits and joins text, except its vocabulary."""
    content = json.loads(state)
    model = {key: value or None for key, value in content["model"].items() if key not in ("vocab", "merges")}
    return {"model": model} | {part: content[part] for part in ("normalizer", "pre_tokenizer", "decoder")}


def load_processor(folder: Path, torchvision: bool | None = None) -> ProcessorMixin:
    """Load the processor of a Qwen2.5-VL folder. Raises OSError or ValueError if its files are missing or broken.

    torchvision: whether to use AutoProcessor; by default if torchvision is installed.
    """
    complete = is_torchvision_available() if torchvision is None else torchvision
    kind: Any = AutoProcessor if complete else _ImagesOnly
    processor = kind.from_pretrained(folder, **_LOCAL)
    # AutoProcessor silently returns a tokenizer if it does not know the class of the processor.
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "image_processor", None) is None:
        raise ValueError("the folder has no image processor")
    auto: Any = AutoImageProcessor
    processor.image_processor = auto.from_pretrained(folder, backend="pil", **_LOCAL)
    return processor


def _digest(pixels: torch.Tensor, grid: torch.Tensor) -> bytes:
    digest = hashlib.sha256(grid.numpy().tobytes())
    digest.update(pixels.contiguous().numpy().data)
    return digest.digest()
