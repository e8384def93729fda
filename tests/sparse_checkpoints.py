"""Checkpoints with the exact shapes of published models, whose files are sparse: headers, and holes for the weights.

They pass every check of a folder and go through the whole memory budget; nothing can be loaded from them, since all
their weights are zero and there is no tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config
from transformers.models.qwen3 import Qwen3ForCausalLM

from engine.types import ModelSpec
from tests.checkpoints import text_spec, vision_spec

# From the config.json of each model's repository on Hugging Face.
QWEN3_8B = {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_06B = {
    "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN25_VL_7B = {
    "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128_000,
    "tie_word_embeddings": False,
}  # fmt: skip
TOWER_7B = {
    "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 3584,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip


def sparse_text(folder: Path, shape: dict[str, Any] = QWEN3_8B, **changes: Any) -> ModelSpec:
    """Write a Qwen3 checkpoint; return its specification. changes: of the specification."""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    _write(model, folder)
    return text_spec(folder, **changes)


def sparse_vision(folder: Path, **changes: Any) -> ModelSpec:
    """Write a checkpoint of Qwen2.5-VL-7B; return its specification. changes: of the specification."""
    config = Qwen2_5_VLConfig(text_config=QWEN25_VL_7B, vision_config=TOWER_7B, tie_word_embeddings=False)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    _write(model, folder)
    return vision_spec(folder, **changes)


def _write(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json, and the weights in bfloat16 as one file of a header and a hole."""
    folder.mkdir(parents=True)
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tensors, end = {}, 0
    for name, parameter in model.named_parameters():
        start, end = end, end + 2 * parameter.numel()
        tensors[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    header = json.dumps(tensors).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
