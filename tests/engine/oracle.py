"""Greedy `generate()` of transformers, one request at a time: what the engine's answers have to equal."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from engine.loading.loader import LoadedModel
from engine.text.detokenizer import Detokenizer
from engine.text.prompt import PreparedPrompt
from engine.types import Prompt


def greedy(loaded: LoadedModel, prompt: Prompt, max_tokens: int) -> tuple[str, str, int]:
    """Return text, finish reason and number of tokens of the answer to one prompt."""
    prepared = loaded.preparer.prepare(prompt)
    tokens = greedy_tokens(loaded, prepared, max_tokens)
    detokenizer = Detokenizer(loaded.token_table)
    text = "".join(map(detokenizer.add, tokens)) + detokenizer.flush()
    return text, "stop" if tokens[-1] in loaded.eos_token_ids else "length", len(tokens)


def greedy_tokens(loaded: LoadedModel, prompt: PreparedPrompt, max_tokens: int) -> list[int]:
    """Return the tokens of the answer, a final end token included."""
    model: Any = loaded.model
    ends = sorted(loaded.eos_token_ids)
    config = GenerationConfig(do_sample=False, max_new_tokens=max_tokens, eos_token_id=ends, pad_token_id=ends[0])
    output = model.generate(**_inputs(loaded, prompt), generation_config=config)
    return output[0, len(prompt.token_ids) :].tolist()


def _inputs(loaded: LoadedModel, prompt: PreparedPrompt) -> dict[str, Any]:
    """Return what the library's processor hands to `generate()` for this prompt, on the model's device."""
    device = loaded.model.device
    ids = torch.tensor([prompt.token_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images is not None:
        inputs["mm_token_type_ids"] = (ids == loaded.model.config.image_token_id).int()
        inputs["pixel_values"] = prompt.images.pixel_values().to(device, loaded.model.dtype)
        inputs["image_grid_thw"] = prompt.images.grid_thw.to(device)
    return inputs
