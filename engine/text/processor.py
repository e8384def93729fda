"""The tokenizer and the picture processor of a checkpoint, and pictures as the vision model takes them.

Where torchvision is missing, the library's own processor cannot be built, only because of its video part; the same
processor without that part is used instead. Pictures go through the Pillow implementation in both cases, so the
pixels do not depend on what happens to be installed.
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

# No hub is asked and no code from a checkpoint runs.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True, eq=False)
class ImageInputs:
    """The pictures of one prompt: pixel_values [patches, channels] float32, grid_thw [pictures, 3] int64.

    hashes: one for each picture, of its pixels and grid, equal exactly where the model sees the same picture.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    hashes: tuple[bytes, ...]


class PictureProcessor:
    """Turns encoded pictures into patches. Safe to use from many threads.

    max_tokens: how many tokens the pictures of one prompt may take together; larger pictures are scaled down as the
    checkpoint's processor scales down what is over its own limit.
    """

    def __init__(self, processor: Any, max_tokens: int) -> None:
        self._processor = processor.image_processor
        self._max_tokens = max_tokens
        self._merge = int(self._processor.merge_size) ** 2
        self._token_pixels = int(self._processor.patch_size) ** 2 * self._merge
        self.pad_token_id = int(processor.image_token_id)
        self.video_token_id = int(processor.video_token_id)

    def prepare(self, images: tuple[EncodedImage, ...]) -> ImageInputs:
        """Decode, scale and cut the pictures. Raises ValidationError for one that cannot be decoded or is too thin."""
        size = self._size(len(images))
        parts = [self._patches(image, size) for image in images]
        hashes = tuple(_digest(pixels, grid) for pixels, grid in parts)
        return ImageInputs(torch.cat([pixels for pixels, _ in parts]), torch.cat([grid for _, grid in parts]), hashes)

    def token_counts(self, images: ImageInputs) -> list[int]:
        """Return how many tokens each picture takes."""
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
        """Return the processor's limits in pixels for each of `count` pictures."""
        shortest, longest = self._processor.size["shortest_edge"], self._processor.size["longest_edge"]
        share = self._max_tokens // count * self._token_pixels
        return {"shortest_edge": shortest, "longest_edge": max(shortest, min(longest, share))}


class _PicturesOnly(Qwen2_5_VLProcessor):
    """The library's processor without its video part, which is all that needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
    ) -> None:
        ordinary: Any = super()
        ordinary.__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from local files. Raises OSError or ValueError where they are missing or broken.

    The library's Qwen class builds its own pre-tokenizer and decoder whatever `tokenizer.json` says. For a retrained
    tokenizer that is wrong both ways: prompts are cut differently than in training, and SentencePiece markers stay in
    decoded text. So where the two differ, the file is taken as it stands.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_LOCAL)  # nosec B615 # local
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer has no tokenizer.json")
    file = folder / "tokenizer.json"
    if file.exists() and _pipeline(file.read_text("utf-8")) != _pipeline(tokenizer.backend_tokenizer.to_str()):
        log.info("the tokenizer in %s has a pipeline of its own", folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **_LOCAL)  # nosec B615 # local
    return tokenizer


def _pipeline(state: str) -> dict[str, Any]:
    """Return all that decides how a tokenizer cuts and joins text, except its vocabulary."""
    content = json.loads(state)
    model = {key: value or None for key, value in content["model"].items() if key not in ("vocab", "merges")}
    return {"model": model} | {part: content[part] for part in ("normalizer", "pre_tokenizer", "decoder")}


def load_processor(folder: Path, torchvision: bool | None = None) -> ProcessorMixin:
    """Load the processor of a Qwen2.5-VL folder. Raises OSError or ValueError where its files are missing or broken.

    torchvision: whether to take the library's ordinary path; by default where torchvision is installed.
    """
    ordinary = is_torchvision_available() if torchvision is None else torchvision
    kind: Any = AutoProcessor if ordinary else _PicturesOnly
    processor = kind.from_pretrained(folder, **_LOCAL)
    # The library hands back a bare tokenizer where it does not know the processor's class, without a word.
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "image_processor", None) is None:
        raise ValueError("the folder describes no picture processor")
    pictures: Any = AutoImageProcessor
    processor.image_processor = pictures.from_pretrained(folder, backend="pil", **_LOCAL)
    return processor


def _digest(pixels: torch.Tensor, grid: torch.Tensor) -> bytes:
    digest = hashlib.sha256(grid.numpy().tobytes())
    digest.update(pixels.contiguous().numpy().data)
    return digest.digest()
