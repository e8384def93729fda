"""Loads the tokenizer and the image processor of a checkpoint, and prepares images for the vision model.

Images are prepared in two halves. Until its request starts, an image is kept as bytes, an eighth of the model's input:
decoded and resized by an `ImageDecoder`, cut into patches in the caller's thread without torch, whose operations would
give each such thread an OpenMP team of its own. The engine's thread converts the bytes, on the model's device.

The architecture decides which classes read the files, not the names in them, which changed from release to release of
transformers. The processor has no video part, the only one that needs torchvision, and images are processed by the
Pillow implementation, so the pixels do not depend on the installed packages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from engine.errors import ValidationError
from engine.text.image_decoder import ImageDecoder, InProcessDecoder, Job, fitted
from engine.text.images import one_of
from engine.types import EncodedImage
from engine.wanted import Wanted

# Never downloads and never runs code from a checkpoint.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True, eq=False)
class PixelTable:
    """What the library's processor makes of each value of a channel: float32 [channels, 256].

    frames: how often it repeats a patch, for the frames of a still image.
    """

    values: torch.Tensor
    frames: int

    def convert(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the model's input [patches, channels * frames * patch^2].

        patches: uint8 [patches, channels * patch^2], on any device.
        """
        channels = self.values.shape[0]
        index = patches.unflatten(1, (channels, -1)).int()
        index += 256 * torch.arange(channels, dtype=torch.int32, device=index.device)[:, None]
        pixels = _sent(self.values, index.device).flatten().index_select(0, index.flatten()).view(index.shape)
        return pixels[:, :, None].expand(-1, -1, self.frames, -1).flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class ImageInputs:
    """The images of one prompt: patches uint8 [patches, channels * patch^2], grids int64 [images, 3].

    hashes: SHA-256 of the pixels and the grid of each image, equal exactly if the model gets the same input.
    """

    patches: NDArray[np.uint8]
    grids: NDArray[np.int64]
    hashes: tuple[bytes, ...]
    table: PixelTable

    @property
    def grid_thw(self) -> torch.Tensor:
        """The grids, as the model takes them."""
        return torch.from_numpy(self.grids)

    def pixel_values(self, device: torch.device | str = "cpu", image: int | None = None) -> torch.Tensor:
        """Return the model's input, float32 [patches, channels * frames * patch^2], of all images or of one."""
        patches = self.patches
        if image is not None:
            end = int(self.grids[: image + 1].prod(-1).sum())
            patches = patches[end - int(self.grids[image].prod()) : end]
        return self.table.convert(_sent(torch.from_numpy(patches), torch.device(device)))


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device, without waiting for the device."""
    if device.type == "cuda":  # pragma: no cover - CUDA
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Undecodable(Exception):
    """Images cannot be decoded for which texts may stand. indexes: theirs."""

    def __init__(self, indexes: set[int]) -> None:
        super().__init__(indexes)
        self.indexes = indexes


class ImagePreparer:
    """Converts encoded images to patches. Thread-safe.

    processor: the processor of a Qwen2.5-VL checkpoint. max_tokens: limit of the tokens of all images of one prompt;
    larger images are scaled down, in the same way as for the limit of the processor itself. Raises ValueError for a
    processor that does something else than this class.
    """

    def __init__(self, processor: Any, max_tokens: int, decoder: ImageDecoder | None = None) -> None:
        self._processor = processor.image_processor
        self._max_tokens = max_tokens
        self._decoder = decoder or InProcessDecoder()
        self._patch, self._merge = int(self._processor.patch_size), int(self._processor.merge_size)
        self._factor = self._patch * self._merge
        self.pad_token_id = int(processor.image_token_id)
        self.video_token_id = int(processor.video_token_id)
        self._table = self._read_table()

    def prepare(self, images: tuple[EncodedImage, ...], wanted: Wanted) -> ImageInputs:
        """Decode, scale and split the images.

        Raises as `ImageDecoder.decode` does, with the image at fault, and Undecodable for those that texts stand for.
        """
        limits = self._limits(len(images))
        parts, grids, hashes, left_out = [], [], [], set()
        for number, image in enumerate(images, 1):
            job = Job(image.data, self._factor, *limits, int(self._processor.resample))
            try:
                with one_of(number, len(images), image.param):
                    pixels = self._decoder.decode(job, wanted)
            except ValidationError:
                if image.instead is None:
                    raise
                left_out.add(number - 1)
                continue
            grid = (1, pixels.height // self._patch, pixels.width // self._patch)
            parts.append(self._split(np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)))
            grids.append(grid)
            hashes.append(hashlib.sha256(repr(grid).encode() + pixels.data).digest())
        if left_out:
            raise Undecodable(left_out)
        return ImageInputs(np.concatenate(parts), np.array(grids, np.int64), tuple(hashes), self._table)

    def header_counts(self, images: Sequence[EncodedImage]) -> list[int]:
        """Return the same from the sizes in the headers, which no image is decoded for. Raises ValidationError."""
        limits = self._limits(len(images))
        sizes = []
        for number, image in enumerate(images, 1):
            with one_of(number, len(images), image.param):
                sizes.append(fitted(image.width, image.height, self._factor, *limits))
        return [width * height // self._factor**2 for width, height in sizes]

    @property
    def most_pixels(self) -> int:
        """The pixels that the model looks at of a large image, if it is the only one of its prompt."""
        return self._limits(1)[1]

    def token_counts(self, images: ImageInputs) -> list[int]:
        """Return the number of tokens of each image."""
        return [int(count) // self._merge**2 for count in images.grids.prod(axis=1)]

    def _split(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the patches [patches, 3 * patch^2] of an image [height, width, 3], in merge order."""
        height, width = (side // self._factor for side in pixels.shape[:2])
        split = pixels.reshape(height, self._merge, self._patch, width, self._merge, self._patch, 3)
        return split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(height * width * self._merge**2, -1)

    def _limits(self, count: int) -> tuple[int, int]:
        """Return the limits of the processor, in pixels, for each of `count` images."""
        shortest, longest = int(self._processor.size["shortest_edge"]), int(self._processor.size["longest_edge"])
        share = self._max_tokens // count * self._factor**2
        return shortest, max(shortest, min(longest, share))

    def _read_table(self) -> PixelTable:
        """Have the library process two images that are made for it: one to read the table from, one to prove it."""
        side = self._factor * -(-16 // self._factor)  # at least as many pixels as a channel has values
        ramp = np.minimum(np.arange(side**2), 255).astype(np.uint8).reshape(side, side, 1).repeat(3, axis=2)
        mixed = np.arange(side * 2 * side * 3, dtype=np.uint32) * 2654435761 >> 7
        proof = mixed.astype(np.uint8).reshape(side, 2 * side, 3)
        levels, processed = self._split(ramp), self._process(ramp)
        frames = processed.shape[1] // levels.shape[1]
        values = np.zeros((3, 256), np.float32)
        for channel in range(3):
            mine, theirs = levels.reshape(len(levels), 3, -1), processed.reshape(len(levels), 3, frames, -1)
            values[channel, mine[:, channel].ravel()] = theirs[:, channel, 0].ravel()
        table = PixelTable(torch.from_numpy(values), frames)
        if not np.array_equal(table.convert(torch.from_numpy(self._split(proof))).numpy(), self._process(proof)):
            raise ValueError("the image processor is not that of Qwen2-VL")
        return table

    def _process(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the library makes of an image [height, width, 3] that needs no resizing."""
        inputs = self._processor(
            images=[pixels], do_resize=False, input_data_format="channels_last", return_tensors="np"
        )
        processed: NDArray[np.float32] = inputs["pixel_values"]
        return processed


class _ImagesOnly(Qwen2_5_VLProcessor):
    """The processor of transformers without its video part, the only part that needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
    ) -> None:
        base: Any = super()
        base.__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from local files. Raises OSError or ValueError if they are missing or broken.

    `tokenizer.json` is taken as it is, whatever class the checkpoint names: the Qwen class of transformers builds its
    own pre-tokenizer and decoder, with which a retrained tokenizer splits prompts differently than in training.
    """
    kind: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, **_LOCAL)  # nosec B615 # local
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer has no tokenizer.json")
    return tokenizer


def load_processor(folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> ProcessorMixin:
    """Load the processor of a Qwen2.5-VL folder. Raises OSError or ValueError if its files are missing or broken.

    tokenizer: by default that of the folder.
    """
    settings, _ = _ImagesOnly.get_processor_dict(folder, **_LOCAL)
    images, template = _load_image_processor(folder), settings.get("chat_template")
    return _ImagesOnly(images, tokenizer or load_tokenizer(folder), template)


def _load_image_processor(folder: Path) -> Qwen2VLImageProcessorPil:
    """Load the image processor from `processor_config.json` or `preprocessor_config.json`, by whichever names."""
    kind: Any = Qwen2VLImageProcessorPil
    settings, _ = kind.get_image_processor_dict(folder, **_LOCAL)
    size = settings.get("size") or {}
    for name, older in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        value = settings.pop(older, None) or size.pop(older, None)
        size[name] = value or size.get(name) or kind.size[name]
    processor: Qwen2VLImageProcessorPil = kind.from_dict(settings | {"size": size})
    return processor
