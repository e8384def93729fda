"""Models of given shapes with random weights, created on the device: no files, no download.

The weights are small enough for every logit to be finite in float16; speed does not depend on their values. The
tokenizer is the benchmark's small one: most of the large vocabulary has no text, which does not change the cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen3Config,
)

from benchmarks.harness.checkpoints import TEMPLATE, make_tokenizer, write_processor
from engine.loading.loader import LoadedModel
from engine.text.detokenizer import TokenTable
from engine.text.processor import ImagePreparer, load_processor
from engine.text.prompt import PromptPreparer
from engine.types import ModelSpec, Progress

SEED = 0
SMALL_WEIGHTS = 0.01  # standard deviation
LONGEST_SIDE = 448  # pixels of an image that is not scaled down

QWEN3_8B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
QWEN25_VL_7B = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
# Shapes for trying the program, not for measuring.
TINY = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
TINY_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
TINY_TOWER = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's shape. tower: of the vision tower, None for a text model."""

    name: str
    language: dict[str, Any]
    tower: dict[str, Any] | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in float16."""
        heads, hidden = self.language["num_key_value_heads"], self.language["hidden_size"]
        head_dim = self.language.get("head_dim") or hidden // self.language["num_attention_heads"]
        values: int = self.language["num_hidden_layers"] * heads * head_dim
        return 2 * values * 2


def shapes(tiny: bool) -> tuple[ModelShape, ModelShape]:
    """Return the text model's shape and the vision model's."""
    if tiny:
        vision = {name: value for name, value in TINY.items() if name != "head_dim"} | {"rope_parameters": TINY_ROPE}
        return ModelShape("tiny text", TINY), ModelShape("tiny vision", vision, {**VISION_TOWER, **TINY_TOWER})
    return ModelShape("Qwen3-8B", QWEN3_8B), ModelShape("Qwen2.5-VL-7B", QWEN25_VL_7B, VISION_TOWER)


class RandomLoad:
    """Replaces `load_model` for an engine: creates the model of a shape on the device of its spec.

    read_bytes: weights that one decode step reads, in bytes; known once the model is created.
    """

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self.read_bytes = 0

    def __call__(self, spec: ModelSpec, report: Callable[[Progress], None], max_model_len: int) -> LoadedModel:
        report(Progress("creating random weights"))
        tokenizer = make_tokenizer()
        model = random_model(self.shape, tokenizer, spec)
        self.read_bytes = read_bytes(model)
        vocabulary = self.shape.language["vocab_size"]
        images = _images(tokenizer, max_model_len) if self.shape.tower else None
        return LoadedModel(
            model,
            PromptPreparer(tokenizer, vocabulary, TEMPLATE, images),
            TokenTable.of(tokenizer.backend_tokenizer, vocabulary),
            frozenset({tokenizer.get_vocab()["<|im_end|>"]}),  # ignored by every request
            max_model_len,
            vocabulary,
        )


def random_model(shape: ModelShape, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> Any:
    """Return a seeded model in evaluation mode, with the device and dtype of the spec."""
    auto: Any = AutoModelForImageTextToText if shape.tower else AutoModelForCausalLM
    torch.manual_seed(SEED)
    with torch.device(spec.device):
        model = auto.from_config(
            _config(shape, tokenizer), dtype=getattr(torch, spec.dtype), attn_implementation="sdpa"
        )
    return model.requires_grad_(False).eval()


def read_bytes(model: Any) -> int:
    """Return the bytes of weights that one decode step reads: all except the embedding table and the vision tower."""
    text = getattr(model.model, "language_model", model.model)
    read = [model.lm_head.weight, *(p for name, p in text.named_parameters() if name != "embed_tokens.weight")]
    return sum(weight.numel() * weight.element_size() for weight in read)


def _config(shape: ModelShape, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    language = {
        **shape.language,
        "max_position_embeddings": 4096,
        "initializer_range": SMALL_WEIGHTS,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": 0,
    }
    if shape.tower is None:
        return Qwen3Config(**language, tie_word_embeddings=False)
    names = {"vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"}
    ids: dict[str, Any] = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()
    }
    tower = {**shape.tower, "initializer_range": SMALL_WEIGHTS}
    return Qwen2_5_VLConfig(text_config=language, vision_config=tower, tie_word_embeddings=False, **ids)


def _images(tokenizer: PreTrainedTokenizerBase, max_model_len: int) -> ImagePreparer:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        write_processor(Path(folder), LONGEST_SIDE)
        return ImagePreparer(load_processor(Path(folder)), max_tokens=max_model_len // 2)
