"""What a model takes on its device, as a table with the arithmetic: weights, cache, kept beginnings, work.

The cache is a stated number of tokens, never what happens to be free, so that the same settings start the same way
twice and an operator can read from the table whether a second copy fits beside the first, for a seamless reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import StartError
from engine.kv_cache import KVCache
from engine.memory import available_bytes
from engine.types import EngineConfig, ModelSpec

log = logging.getLogger(__name__)

PREFIX_SHARE = 4  # contexts' worth of kept beginnings
LOGITS_COPIES = 4  # float32 copies of a step's logits alive at once while sampling
HIDDEN_COPIES = 6  # copies of a step's hidden states alive at once
FFN_COPIES = 3


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes by purpose, with the number of tokens the cache and the kept beginnings hold. `weights` are loaded."""

    weights: int
    cache: int
    beginnings: int
    work: int
    cache_tokens: int
    prefix_tokens: int

    @property
    def to_allocate(self) -> int:
        """What is still to be taken once the weights are in place."""
        return self.cache + self.beginnings + self.work

    @property
    def total(self) -> int:
        """Everything, weights included: what a second copy would take."""
        return self.weights + self.to_allocate

    def table(self, available: int) -> str:
        """Return the budget as lines of text. available: bytes free now, the weights being loaded already."""
        left = available - self.to_allocate
        rows = [
            ("weights (loaded)", self.weights, ""),
            ("cache", self.cache, f"{self.cache_tokens:,} tokens"),
            ("kept beginnings", self.beginnings, f"{self.prefix_tokens:,} tokens"),
            ("work", self.work, "estimated"),
            ("left", left, f"a second copy for a seamless reload {'fits' if left >= self.total else 'does not fit'}"),
        ]
        return "\n".join(f"  {name:<18}{size / 1e9:>9.3f} GB  {note}".rstrip() for name, size, note in rows)


def plan_budget(model: Any, config: EngineConfig, max_model_len: int) -> Budget:
    """Return what `model` (loaded) needs with these limits. max_model_len: tokens a slot."""
    text = model.config.get_text_config()
    dtype: torch.dtype = model.dtype
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = KVCache.bytes_per_token(text.num_hidden_layers, text.num_key_value_heads, head_dim, dtype)
    cache_tokens = config.max_num_seqs * max_model_len
    prefix_tokens = PREFIX_SHARE * max_model_len if config.prefix_cache else 0
    row = (HIDDEN_COPIES * text.hidden_size + FFN_COPIES * text.intermediate_size) * dtype.itemsize
    logits = LOGITS_COPIES * config.max_num_seqs * text.vocab_size * 4
    return Budget(
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        cache=cache_tokens * per_token,
        beginnings=prefix_tokens * per_token,
        work=config.max_num_batched_tokens * row + logits,
        cache_tokens=cache_tokens,
        prefix_tokens=prefix_tokens,
    )


def check_budget(
    spec: ModelSpec, config: EngineConfig, budget: Budget, available: Callable[[str], int] = available_bytes
) -> None:
    """Log the budget's table. Raises StartError with the arithmetic and the settings where it does not fit."""
    free = available(spec.device)
    log.info("%s: memory on %s\n%s", spec.name, spec.device, budget.table(free))
    reserve = budget.total if config.reload_reserve else 0
    if budget.to_allocate + reserve <= free:
        return
    kept = f" and {reserve / 1e9:.2f} GB that RELOAD_RESERVE keeps for a second copy" if reserve else ""
    raise StartError(
        f"{spec.name} does not fit on {spec.device}: beside its weights it needs {budget.cache / 1e9:.2f} GB for "
        f"{budget.cache_tokens:,} cache tokens (MAX_NUM_SEQS x MAX_MODEL_LEN), {budget.beginnings / 1e9:.2f} GB for "
        f"kept beginnings (PREFIX_CACHE), {budget.work / 1e9:.2f} GB to work in{kept}, and {free / 1e9:.2f} GB are free: "
        f"lower MAX_NUM_SEQS or MAX_MODEL_LEN."
    )
