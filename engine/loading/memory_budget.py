"""What a model takes on its device, as a table with the arithmetic: weights, cache, prefix cache, work.

The cache is a stated number of tokens, never what happens to be free, so that the same settings start the same way
twice and an operator can read from the table whether a second copy fits beside the first, for a seamless reload.
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
from engine.loading.loader import TEXT_ARCHITECTURE, VISION_ARCHITECTURE
from engine.model.kv_cache import KVCache
from engine.model.linear import KEEP_BOTH_BYTES
from engine.types import EngineConfig, ModelSpec

log = logging.getLogger("avito_ai.loading")

PREFIX_SHARE = 4  # contexts' worth of prefix cache
LOGITS_COPIES = 4  # float32 copies of a step's logits alive at once while sampling
HIDDEN_COPIES = 6  # copies of a step's hidden states alive at once
FFN_COPIES = 3
SETTINGS_TO_LOWER = "lower MAX_NUM_SEQS or MAX_MODEL_LEN"


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes by purpose, with the number of tokens the cache and the prefix cache hold. `weights` are loaded; on a
    processor small ones may be kept in a second layout too (`relaid`, at most).
    """

    weights: int
    second_layout: int
    cache: int
    prefix_cache: int
    work: int
    cache_tokens: int
    prefix_tokens: int

    @property
    def to_allocate(self) -> int:
        """What is still to be taken once the weights are in place."""
        return self.second_layout + self.cache + self.prefix_cache + self.work

    @property
    def total(self) -> int:
        """Everything, weights included: what a second copy would take."""
        return self.weights + self.to_allocate

    def table(self, available: int) -> str:
        """Return the budget as lines of text. available: bytes free now, the weights being loaded already."""
        left = available - self.to_allocate
        rows = [
            ("weights (loaded)", self.weights, ""),
            *([("second layout", self.second_layout, "at most")] if self.second_layout else []),
            ("cache", self.cache, f"{self.cache_tokens:,} tokens"),
            ("prefix cache", self.prefix_cache, f"{self.prefix_tokens:,} tokens"),
            ("work", self.work, "estimated"),
            ("left", left, f"a second copy for a seamless reload {'fits' if left >= self.total else 'does not fit'}"),
        ]
        return "\n".join(f"  {name:<18}{size / 1e9:>9.3f} GB  {note}".rstrip() for name, size, note in rows)


def plan_budget(model: Any, config: EngineConfig, max_model_len: int) -> MemoryBudget:
    """Return what `model` (loaded) needs with these limits. max_model_len: tokens a slot."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return _budget(model.config.get_text_config(), model.dtype, model.device.type, weights, config, max_model_len)


def foresee_budget(spec: ModelSpec, config: EngineConfig) -> MemoryBudget:
    """Return the same from the checkpoint's files alone. Raises StartError where they are not in order."""
    architecture = VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    checkpoint = find_checkpoint(spec.model_dir, spec.dir_setting, architecture)
    whole = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)  # nosec B615 # local
    text = whole.get_text_config()
    dtype: torch.dtype = getattr(torch, spec.dtype)
    length = min(config.max_model_len, text.max_position_embeddings)
    return _budget(text, dtype, spec.device, checkpoint.loaded_bytes(dtype.itemsize), config, length)


def check_together(
    models: Iterable[tuple[ModelSpec, EngineConfig]],
    available: Callable[[str], int] = available_bytes,
    total: Callable[[str], int] = total_bytes,
) -> None:
    """Check, before anything is loaded, that all models fit on their device together.

    Raises NoRoom where they would if others left it, StartError where they never could.
    """
    plans = [(spec, config, foresee_budget(spec, config)) for spec, config in models]
    spec, config, _ = plans[0]
    free, needed = available(spec.device), sum(budget.total for _, _, budget in plans)
    reserve = needed if config.reload_reserve else 0
    if needed + reserve <= free:
        return
    sums = "; ".join(
        f"{spec.name} {budget.total / 1e9:.2f} GB "
        f"({(budget.weights + budget.second_layout) / 1e9:.2f} weights in {spec.dtype}, "
        f"{budget.cache / 1e9:.2f} cache, {budget.prefix_cache / 1e9:.2f} prefix cache, {budget.work / 1e9:.2f} work)"
        for spec, _, budget in plans
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
    """Log the budget's table. Raises StartError with the arithmetic and the settings where it does not fit."""
    free = available(spec.device)
    log.info("%s: memory on %s\n%s", spec.name, spec.device, budget.table(free))
    reserve = budget.total if config.reload_reserve else 0
    if budget.to_allocate + reserve <= free:
        return
    layout = f"{budget.second_layout / 1e9:.2f} GB for a second layout of them, " if budget.second_layout else ""
    kept = f" and {reserve / 1e9:.2f} GB that RELOAD_RESERVE keeps for a second copy" if reserve else ""
    raise StartError(
        f"{spec.name} does not fit on {spec.device}: beside its weights it needs {layout}"
        f"{budget.cache / 1e9:.2f} GB for {budget.cache_tokens:,} cache tokens (MAX_NUM_SEQS x MAX_MODEL_LEN), "
        f"{budget.prefix_cache / 1e9:.2f} GB for prefix cache (PREFIX_CACHE), {budget.work / 1e9:.2f} GB to work in"
        f"{kept}, and {free / 1e9:.2f} GB are free: {SETTINGS_TO_LOWER}."
    )


def _budget(
    text: Any, dtype: torch.dtype, device: str, weights: int, config: EngineConfig, length: int
) -> MemoryBudget:
    """Return the budget of a model with this text configuration. length: tokens a slot."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = KVCache.bytes_per_token(text.num_hidden_layers, text.num_key_value_heads, head_dim, dtype)
    cache_tokens = config.max_num_seqs * length
    prefix_tokens = PREFIX_SHARE * length if config.prefix_cache else 0
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
    )
