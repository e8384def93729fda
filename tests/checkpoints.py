"""Tiny random checkpoints with the layout of the published ones, written in about a second without network.

`write_text_checkpoint` and `write_vision_checkpoint` write `config.json`, `generation_config.json`, several safetensors
shards with their index, the files of the tokenizer (beside the weights or in their own folder) and of the image
processor. `as_hub_cache` copies such a folder into a Hugging Face cache. The weights are random; the same seed gives
the same answers.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.types import ModelSpec
from tests.trained_tokenizers import SPECIAL_TOKENS, trained_tokenizer

CHAT_TEMPLATE = """
{%- macro show(content) -%}
    {%- if content is string -%}{{ content }}{%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else -%}{{ part.text }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{ '<|im_start|>system\\nTools:' }}
    {%- for tool in tools -%}{{ '\\n' + (tool | tojson) }}{%- endfor -%}
    {{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'system' and not loop.first -%}{{ raise_exception('system comes first') }}{%- endif -%}
    {%- if message.role == 'tool' -%}
        {{ '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else -%}
        {{ '<|im_start|>' + message.role + '\\n' + show(message.content) }}
        {%- for call in message.tool_calls or [] -%}
            {{ '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
        {%- endfor -%}
        {{ '<|im_end|>\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}
"""


def write_tokenizer(
    folder: Path,
    extra_tokens: tuple[str, ...] = (),
    processor_class: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> Tokenizer:
    """Write the files of a tokenizer, by default a byte-level one, as in a Qwen checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or trained_tokenizer(extra_tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())
    _write_json(folder / "vocab.json", state["model"]["vocab"])
    merges = "\n".join(" ".join(pair) for pair in state["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(token.pop("id")): token for token in state["added_tokens"]},
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 131072,
        "errors": "replace",
        "split_special_tokens": False,
    }
    if processor_class:
        config["processor_class"] = processor_class
    _write_json(folder / "tokenizer_config.json", config)
    return tokenizer


def write_text_checkpoint(
    folder: Path,
    tokenizer_dir: Path | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    extra_tokens: tuple[str, ...] = (),
    shard_size: int = 150_000,
    **changes: Any,
) -> Path:
    """Write a random Qwen3 checkpoint (two layers, hidden size 64); `changes` are applied to its configuration.

    tokenizer_dir: folder of the tokenizer's files, by default that of the weights. shard_size: in bytes.
    """
    tokenizer = write_tokenizer(tokenizer_dir or folder, extra_tokens)
    config = Qwen3Config(**(_language(tokenizer) | {"head_dim": 16, "tie_word_embeddings": True} | changes))
    torch.manual_seed(seed)
    _save(Qwen3ForCausalLM(config), folder, tokenizer, dtype, shard_size)
    return folder


def write_vision_checkpoint(
    folder: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    extra_tokens: tuple[str, ...] = (),
    shard_size: int = 150_000,
    max_pixels: int = 28 * 28 * 16,
    **changes: Any,
) -> Path:
    """Write a random Qwen2.5-VL checkpoint (two text and two vision layers); `changes` apply to the text config."""
    tokenizer = write_tokenizer(folder, extra_tokens, processor_class="Qwen2_5_VLProcessor")
    ids = {
        name: tokenizer.token_to_id(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48,
        "out_hidden_size": changes.get("hidden_size", 64),
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56,
        "fullatt_block_indexes": [1], "initializer_range": 0.2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=_language(tokenizer) | {"rope_parameters": rope, "tie_word_embeddings": False} | changes,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    _save(Qwen2_5_VLForConditionalGeneration(config), folder, tokenizer, dtype, shard_size)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _write_json(folder / "preprocessor_config.json", _image_processor(max_pixels))
    return folder


def as_hub_cache(folder: Path, cache: Path, repo: str = "AvitoTech/avibe", revision: str = "a" * 40) -> Path:
    """Copy a checkpoint folder into a Hugging Face cache (blobs, refs, snapshots of links); return the snapshot."""
    root = cache / ("models--" + repo.replace("/", "--"))
    snapshot = root / "snapshots" / revision
    for part in (root / "blobs", root / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(revision, encoding="utf-8")
    for file in sorted(folder.iterdir()):
        blob = root / "blobs" / f"{revision[:8]}-{file.name}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def text_spec(folder: Path, tokenizer_dir: Path | None = None, **changes: Any) -> ModelSpec:
    """Return the specification of an Avibe checkpoint in fp32 on the CPU."""
    fields = {
        "name": "avibe", "served_id": "avibe", "vision": False, "model_dir": folder,
        "tokenizer_dir": tokenizer_dir or folder, "device": "cpu", "dtype": "float32",
        "dir_setting": "VIBE_MODEL_DIR", "tokenizer_setting": "VIBE_TOKENIZER_DIR", "dtype_setting": "VIBE_DTYPE",
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def vision_spec(folder: Path, **changes: Any) -> ModelSpec:
    """Return the specification of an Avision checkpoint in fp32 on the CPU."""
    fields = {
        "name": "avision", "served_id": "avision", "vision": True, "model_dir": folder,
        "tokenizer_dir": folder, "device": "cpu", "dtype": "float32",
        "dir_setting": "VISION_MODEL_DIR", "tokenizer_setting": "VISION_MODEL_DIR", "dtype_setting": "VISION_DTYPE",
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def _language(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the text configuration; a wide initializer range keeps random logits far from ties."""
    return {
        "vocab_size": -(-tokenizer.get_vocab_size() // 32) * 32,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }  # fmt: skip


def _as_published(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration in the older format of the published checkpoints."""
    text = config.pop("text_config", {})
    flat = {**text, **config, "torch_dtype": config["dtype"], "transformers_version": "4.51.0"}
    rope = flat.pop("rope_parameters")
    flat["rope_theta"] = rope["rope_theta"]
    sections = rope.get("mrope_section")
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": sections} if sections else None
    for name in ("dtype", "layer_types", "pad_token_id"):
        flat.pop(name, None)
    if "vision_config" in flat:
        flat["vision_config"].pop("rope_parameters", None)
    return flat


def _image_processor(max_pixels: int) -> dict[str, Any]:
    return {
        "min_pixels": 28 * 28 * 4,
        "max_pixels": max_pixels,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def _save(model: PreTrainedModel, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype, shard_size: int) -> None:
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", _as_published(config))
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    defaults = {"do_sample": True, "eos_token_id": eos, "pad_token_id": eos[1], "bos_token_id": eos[1]}
    _write_json(folder / "generation_config.json", defaults | {"temperature": 0.7, "top_p": 0.8, "top_k": 20})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
