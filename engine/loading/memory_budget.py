"""The memory budget of a model on its device: weights, KV cache, prefix cache, working memory.

The size of the KV cache follows from the settings, never from the free memory, so the same settings always start the
same way, and the logged table tells the operator whether a second copy fits beside the first for a seamless reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from engine.errors import NoRoom, StartError
from engine.loading.checkpoint import find_checkpoint
from engine.loading.host import available_bytes, total_bytes
from engine.loading.loader import TEXT_ARCHITECTURE, VISION_ARCHITECTURE, image_tokens
from engine.model.kv_cache import KVCache
from engine.model.linear import KEEP_BOTH_BYTES
from engine.text.image_workers import MEMORY_BYTES
from engine.types import EngineConfig, ModelSpec

log = logging.getLogger("avito_ai.loading")

PREFIX_CONTEXTS = 4  # size of the prefix cache in contexts of full length
LOGITS_COPIES = 4  # float32 copies of the logits of a step that exist at once during sampling
HIDDEN_COPIES = 6  # copies of the hidden states of a step that exist at once
FFN_COPIES = 3  # the same for the intermediate states of the feed-forward layers
SETTINGS_TO_LOWER = "lower MAX_NUM_SEQS or MAX_MODEL_LEN"


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes by purpose, and the sizes of KV cache and prefix cache in tokens.

    second_layout: the upper limit for a second packing of small weights on the CPU; work: estimated working memory.
    images, decoders: the upper limits of what the images of requests take in the host's memory while they are admitted,
    and of the processes that decode them; nothing of it is taken before they come.
    """

    weights: int
    second_layout: int
    cache: int
    prefix_cache: int
    work: int
    cache_tokens: int
    prefix_tokens: int
    images: int = 0
    decoders: int = 0

    @property
    def to_allocate(self) -> int:
        """Memory still to be allocated after the weights are loaded."""
        return self.second_layout + self.cache + self.prefix_cache + self.work

    @property
    def total(self) -> int:
        """All memory including the weights: what a second copy would take."""
        return self.weights + self.to_allocate

    def table(self, available: int) -> str:
        """Return the budget as a text table. available: free bytes, with the weights already loaded."""
        left = available - self.to_allocate
        rows = [
            ("weights (loaded)", self.weights, ""),
            *([("second layout", self.second_layout, "at most")] if self.second_layout else []),
            ("cache", self.cache, f"{self.cache_tokens:,} tokens"),
            ("prefix cache", self.prefix_cache, f"{self.prefix_tokens:,} tokens"),
            ("work", self.work, "estimated"),
            *([("images", self.images, "at most, in the host's memory")] if self.images else []),
            *([("image decoders", self.decoders, "at most, in the host's memory")] if self.decoders else []),
            ("left", left, f"a second copy for a seamless reload {'fits' if left >= self.total else 'does not fit'}"),
        ]
        return "\n".join(f"  {name:<18}{size / 1e9:>9.3f} GB  {note}".rstrip() for name, size, note in rows)


def plan_budget(model: Any, config: EngineConfig, max_model_len: int) -> MemoryBudget:
    """Return the budget of a loaded model. max_model_len: tokens per slot."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return _budget(model.config, model.dtype, model.device.type, weights, config, max_model_len)


def estimate_budget(spec: ModelSpec, config: EngineConfig) -> MemoryBudget:
    """Return the budget from the files of the checkpoint alone. Raises StartError if they are invalid."""
    architecture = VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    checkpoint = find_checkpoint(spec.model_dir, spec.dir_setting, architecture)
    whole = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)  # nosec B615 # local
    text = whole.get_text_config()
    dtype: torch.dtype = getattr(torch, spec.dtype)
    length = min(config.max_model_len, text.max_position_embeddings)
    return _budget(whole, dtype, spec.device, checkpoint.loaded_bytes(dtype.itemsize), config, length)


def check_together(
    models: Iterable[tuple[ModelSpec, EngineConfig]],
    available: Callable[[str], int] = available_bytes,
    total: Callable[[str], int] = total_bytes,
) -> None:
    """Check, before anything is loaded, that all models fit on their device together.

    Raises NoRoom if they would fit without the memory that other processes use, StartError if they never fit.
    """
    budgets = [(spec, config, estimate_budget(spec, config)) for spec, config in models]
    spec, config, _ = budgets[0]
    free, needed = available(spec.device), sum(budget.total for _, _, budget in budgets)
    reserve = needed if config.reload_reserve else 0
    if needed + reserve <= free:
        return
    sums = "; ".join(
        f"{spec.name} {budget.total / 1e9:.2f} GB "
        f"({(budget.weights + budget.second_layout) / 1e9:.2f} weights in {spec.dtype}, "
        f"{budget.cache / 1e9:.2f} cache, {budget.prefix_cache / 1e9:.2f} prefix cache, {budget.work / 1e9:.2f} work)"
        for spec, _, budget in budgets
    )
    twice = f", and RELOAD_RESERVE keeps as much for a second copy: {2 * needed / 1e9:.2f} GB" if reserve else ""
    kind = NoRoom if needed + reserve <= total(spec.device) else StartError
    raise kind(
        f"The models do not fit on {spec.device} together: {sums}; that is {needed / 1e9:.2f} GB{twice}, and "
        f"{free / 1e9:.2f} GB are free: {SETTINGS_TO_LOWER}."
    )


def check_budget(
    spec: ModelSpec, config: EngineConfig, budget: MemoryBudget, available: Callable[[str], int] = available_bytes
) -> None:
    """Log the table of the budget. Raises StartError with the sizes and the settings to lower if it does not fit."""
    free = available(spec.device)
    log.info("%s: memory on %s\n%s", spec.name, spec.device, budget.table(free))
    reserve = budget.total if config.reload_reserve else 0
    if budget.to_allocate + reserve <= free:
        return
    layout = f"{budget.second_layout / 1e9:.2f} GB for a second layout of them, " if budget.second_layout else ""
    reserved = f" and {reserve / 1e9:.2f} GB that RELOAD_RESERVE keeps for a second copy" if reserve else ""
    raise StartError(
        f"{spec.name} does not fit on {spec.device}: in addition to its weights it needs {layout}"
        f"{budget.cache / 1e9:.2f} GB for {budget.cache_tokens:,} cache tokens (MAX_NUM_SEQS x MAX_MODEL_LEN), "
        f"{budget.prefix_cache / 1e9:.2f} GB for prefix cache (PREFIX_CACHE), {budget.work / 1e9:.2f} GB of working "
        f"memory{reserved}, and {free / 1e9:.2f} GB are free: {SETTINGS_TO_LOWER}."
    )


def _budget(
    model: Any, dtype: torch.dtype, device: str, weights: int, config: EngineConfig, length: int
) -> MemoryBudget:
    """Return the budget of a model with this configuration. length: tokens per slot."""
    text, vision = model.get_text_config(), getattr(model, "vision_config", None)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = KVCache.bytes_per_token(text.num_hidden_layers, text.num_key_value_heads, head_dim, dtype)
    cache_tokens = config.max_num_seqs * length
    prefix_tokens = PREFIX_CONTEXTS * length if config.prefix_cache else 0
    row = (HIDDEN_COPIES * text.hidden_size + FFN_COPIES * text.intermediate_size) * dtype.itemsize
    logits = LOGITS_COPIES * config.max_num_seqs * text.vocab_size * 4
    return MemoryBudget(
        weights=weights,
        second_layout=weights if device == "cpu" and weights <= KEEP_BOTH_BYTES else 0,
        cache=cache_tokens * per_token,
        prefix_cache=prefix_tokens * per_token,
        work=config.max_num_batched_tokens * row + logits,
        cache_tokens=cache_tokens,
        prefix_tokens=prefix_tokens,
        images=0 if vision is None else _image_bytes(vision, config, length),
        decoders=0 if vision is None else config.image_workers * MEMORY_BYTES,
    )


def _image_bytes(vision: Any, config: EngineConfig, length: int) -> int:
    """Return what the images of all admitted requests take at most, each with a byte for each of its values."""
    token = 3 * int(vision.patch_size * vision.spatial_merge_size) ** 2
    return (config.max_num_seqs + config.max_waiting) * image_tokens(length) * token
