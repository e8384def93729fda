"""The memory budget of a model on its device: weights, KV cache, and what its steps need beside them.

Every line follows from the settings, the checkpoint and the device's total memory, never from the memory that happens
to be free, so the same card always starts the same way. The logged table tells the operator how many requests fit, and
whether a second copy fits beside the first for a seamless reload.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig

from engine.errors import NoRoom, StartError
from engine.loading.checkpoint import Checkpoint, find_checkpoint, unusable
from engine.loading.host import available_bytes, total_bytes
from engine.loading.loader import TEXT_ARCHITECTURE, VISION_ARCHITECTURE, image_tokens, loaded_bytes
from engine.loading.quantization import check_quant, weight_bytes
from engine.loading.step_memory import (
    CUBLAS_BYTES,
    fp8_work_bytes,
    graph_bytes,
    own_sampling_bytes,
    own_workspace_bytes,
    sampling_bytes,
    vision_bytes,
    work_bytes,
    workspace_bytes,
)
from engine.model.kv_cache import KVCache
from engine.model.linear import KEEP_BOTH_BYTES
from engine.schedule.block_pool import BLOCK, blocks_for
from engine.text.image_workers import MEMORY_BYTES
from engine.types import EngineConfig, ModelSpec

log = logging.getLogger("avito_ai.loading")

PREFIX_CONTEXTS = 4  # contexts beyond those of running sequences that a cache of the largest default size holds
TYPICAL_TOKENS = 310  # of a request, prompt and answer together
SETTINGS_TO_LOWER = "set a lower KV_CACHE_TOKENS or MAX_MODEL_LEN"


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes by purpose, and the size of the KV cache.

    second_layout: the upper limit for a second packing of small weights on the CPU. work: the activations of the
    largest step. sampling: the logits of its rows, and what the sampler makes of them. vision: the activations of the
    vision tower. workspaces, graphs: of the libraries and the CUDA graphs. images, decoders: the upper limits of what
    the images of requests take in the host's memory while they are admitted, and of the processes that decode them;
    nothing of it is taken before they come. cache_tokens, max_model_len: in tokens; token_bytes: of keys and values.
    to_quantize: of the weights, those that are still only mapped from their files, to be quantized.
    """

    weights: int
    second_layout: int
    work: int
    sampling: int
    vision: int
    workspaces: int
    graphs: int
    cache_tokens: int
    max_model_len: int
    token_bytes: int
    images: int = 0
    decoders: int = 0
    to_quantize: int = 0

    @property
    def cache(self) -> int:
        """The KV cache with the block that padding tokens write to."""
        return (self.cache_tokens + BLOCK) * self.token_bytes

    @property
    def step(self) -> int:
        """What steps need beside weights and KV cache."""
        return self.work + self.sampling + self.vision + self.workspaces + self.graphs

    @property
    def to_allocate(self) -> int:
        """Memory still to be allocated after the weights are loaded."""
        return self.to_quantize + self.second_layout + self.cache + self.step

    @property
    def total(self) -> int:
        """All memory including the weights: what a second copy would take."""
        return self.weights - self.to_quantize + self.to_allocate

    @property
    def contexts(self) -> float:
        """How many sequences of the full length the KV cache holds."""
        return self.cache_tokens / _in_blocks(self.max_model_len)

    @property
    def typical_requests(self) -> int:
        """How many requests of typical size the KV cache holds."""
        return self.cache_tokens // _in_blocks(TYPICAL_TOKENS)

    def table(self, available: int) -> str:
        """Return the budget as a text table. available: free bytes, with the weights already loaded."""
        left = available - self.to_allocate
        room = f"{self.contexts:.1f} contexts of {self.max_model_len:,}, or {self.typical_requests:,} requests of "
        rows = [
            ("weights" if self.to_quantize else "weights (loaded)", self.weights, ""),
            ("second layout", self.second_layout, "at most"),
            ("KV cache", self.cache, f"{self.cache_tokens:,} tokens: {room}{TYPICAL_TOKENS}"),
            ("work", self.work, "activations of the largest step"),
            ("sampling", self.sampling, "logits of all rows"),
            ("vision tower", self.vision, "activations of the images of one step"),
            ("workspaces", self.workspaces, "of cuBLAS and attention"),
            ("CUDA graphs", self.graphs, "at most"),
            ("images", self.images, "at most, in the host's memory"),
            ("image decoders", self.decoders, "at most, in the host's memory"),
        ]
        rows = [(name, size, note) for name, size, note in rows if size]
        rows.append(
            ("left", left, f"a second copy for a seamless reload {'fits' if left >= self.total else 'does not fit'}")
        )
        return "\n".join(f"  {name:<18}{size / 1e9:>9.3f} GB  {note}".rstrip() for name, size, note in rows)


def plan_budget(model: Any, config: EngineConfig, max_model_len: int, spec: ModelSpec | None = None) -> MemoryBudget:
    """Return the budget of a loaded model.

    max_model_len: of a sequence, in tokens; spec: where and how it is computed, by default where and as it is.
    """
    device_type, dtype, quant = model.device.type, model.dtype, "none"
    if spec is not None and spec.quant != "none":
        device_type, dtype, quant = spec.device_type, getattr(torch, spec.dtype), spec.quant
    shapes = ((name, parameter.shape) for name, parameter in model.named_parameters())
    weights = weight_bytes(shapes, quant, dtype.itemsize, device_type)
    budget = _budget(model.config, dtype, device_type, weights, config, max_model_len, quant)
    return budget if quant == "none" else replace(budget, to_quantize=weights)


def estimate_budget(spec: ModelSpec, config: EngineConfig) -> MemoryBudget:
    """Return the budget from the files of the checkpoint alone. Raises StartError if they are invalid."""
    architecture = VISION_ARCHITECTURE if spec.vision else TEXT_ARCHITECTURE
    checkpoint = find_checkpoint(spec.model_dir, spec.dir_setting, architecture)
    try:
        return _estimate(spec, config, checkpoint)
    except StartError:
        raise
    except Exception as error:  # transformers raises many types for odd values
        raise unusable(spec, error) from error


def _estimate(spec: ModelSpec, config: EngineConfig, checkpoint: Checkpoint) -> MemoryBudget:
    whole = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)  # nosec B615 # local
    text = whole.get_text_config()
    dtype: torch.dtype = getattr(torch, spec.dtype)
    length = min(config.max_model_len, text.max_position_embeddings)
    return _budget(whole, dtype, spec.device_type, loaded_bytes(spec, checkpoint), config, length, spec.quant)


def check_together(
    models: Iterable[tuple[ModelSpec, EngineConfig]],
    available: Callable[[str], int] = available_bytes,
    total: Callable[[str], int] = total_bytes,
) -> None:
    """Check, before anything is loaded, that the models of each device fit on it together.

    Raises NoRoom if they would fit without the memory that other processes use, StartError if they never fit.
    """
    by_device = defaultdict[str, list[tuple[ModelSpec, EngineConfig, MemoryBudget]]](list)
    for spec, config in models:
        check_quant(spec)
        budget = estimate_budget(spec, config)
        _check_context(spec, budget)
        by_device[spec.device].append((spec, config, budget))
    for device, planned in by_device.items():
        _check_device(device, planned, available(device), total(device))


def _check_device(
    device: str, planned: list[tuple[ModelSpec, EngineConfig, MemoryBudget]], free: int, total: int
) -> None:
    needed = sum(budget.total for _, _, budget in planned)
    reserve = needed if planned[0][1].reload_reserve else 0
    if needed + reserve <= free:
        shares = ", ".join(f"{spec.name} {budget.total / 1e9:.2f}" for spec, _, budget in planned)
        log.info("memory of %s in GB: %s; %.2f of %.2f are free.", device, shares, free / 1e9, total / 1e9)
        return
    sums = "; ".join(
        f"{spec.name} {budget.total / 1e9:.2f} GB "
        f"({(budget.weights + budget.second_layout) / 1e9:.2f} weights in {spec.weights}, "
        f"{budget.cache / 1e9:.2f} KV cache of {budget.cache_tokens:,} tokens, {budget.step / 1e9:.2f} work)"
        for spec, _, budget in planned
    )
    twice = f", and RELOAD_RESERVE keeps as much for a second copy: {2 * needed / 1e9:.2f} GB" if reserve else ""
    kind = NoRoom if needed + reserve <= total else StartError
    raise kind(
        f"The models do not fit on {device} together: {sums}; that is {needed / 1e9:.2f} GB{twice}, and "
        f"{free / 1e9:.2f} of {total / 1e9:.2f} GB are free: {SETTINGS_TO_LOWER}."
    )


def check_budget(
    spec: ModelSpec, config: EngineConfig, budget: MemoryBudget, available: Callable[[str], int] = available_bytes
) -> None:
    """Log the table of the budget. Raises StartError with the sizes and the settings to lower if it does not fit."""
    _check_context(spec, budget)
    free = available(spec.device)
    log.info("%s: memory on %s", spec.name, spec.device)
    for row in budget.table(free).splitlines():  # a line break within a line of the log is shown as such
        log.info("%s: %s", spec.name, row)
    reserve = budget.total if config.reload_reserve else 0
    if budget.to_allocate + reserve <= free:
        return
    layout = f"{budget.second_layout / 1e9:.2f} GB for a second layout of them, " if budget.second_layout else ""
    reserved = f" and {reserve / 1e9:.2f} GB that RELOAD_RESERVE keeps for a second copy" if reserve else ""
    raise StartError(
        f"{spec.name} does not fit on {spec.device}: in addition to its weights it needs {layout}"
        f"{budget.cache / 1e9:.2f} GB for a KV cache of {budget.cache_tokens:,} tokens (KV_CACHE_TOKENS), "
        f"{budget.step / 1e9:.2f} GB of working memory{reserved}, and {free / 1e9:.2f} GB are free: "
        f"{SETTINGS_TO_LOWER}."
    )


def log_use(spec: ModelSpec, budget: MemoryBudget, reserved: int) -> None:
    """Log what the start of a model has reserved on its GPU, in bytes, beside its budget; nothing where that is 0."""
    if reserved:
        log.info(
            "%s: %.2f GB of %s are reserved after the start, the budget has %.2f.",
            spec.name,
            reserved / 1e9,
            spec.device,
            budget.total / 1e9,
        )


def default_contexts(config: EngineConfig) -> int:
    """Return how many sequences of the full length a KV cache holds at most, unless KV_CACHE_TOKENS says otherwise."""
    return config.max_num_seqs + (PREFIX_CONTEXTS if config.prefix_cache else 0)


def _check_context(spec: ModelSpec, budget: MemoryBudget) -> None:
    if budget.contexts < 1:
        raise StartError(
            f"The KV cache of {spec.name} has {budget.cache_tokens:,} tokens (KV_CACHE_TOKENS), and one sequence of "
            f"the full length takes {_in_blocks(budget.max_model_len):,} (MAX_MODEL_LEN): raise one or lower the other."
        )


def _budget(
    model: Any, dtype: torch.dtype, device_type: str, weights: int, config: EngineConfig, length: int, quant: str
) -> MemoryBudget:
    """Return the budget of a model with this configuration. length: of a sequence, in tokens."""
    plain = quant == "none" and dtype == torch.float32
    if device_type == "cpu":  # weights of fewer bits are multiplied by activations in float32
        dtype = torch.float32
    text, vision = model.get_text_config(), getattr(model, "vision_config", None)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    step, rows = config.max_num_batched_tokens, config.max_num_seqs
    own, fp8 = device_type != "cpu" and quant != "none", quant == "fp8"
    return MemoryBudget(
        weights=weights,
        second_layout=weights if device_type == "cpu" and plain and weights <= KEEP_BOTH_BYTES else 0,
        work=work_bytes(text, step, dtype) + (fp8_work_bytes(text, step) if fp8 else 0),
        sampling=own_sampling_bytes(text, rows) if own else sampling_bytes(text, rows),
        vision=0 if vision is None else vision_bytes(vision, step, length, dtype),
        workspaces=_workspaces(text, vision, head_dim, config, device_type, own and not fp8),
        graphs=graph_bytes(device_type) if config.cuda_graphs else 0,
        cache_tokens=config.kv_cache_tokens or default_contexts(config) * _in_blocks(length),
        max_model_len=length,
        token_bytes=KVCache.bytes_per_token(text.num_hidden_layers, text.num_key_value_heads, head_dim, dtype),
        images=0 if vision is None else _image_bytes(vision, config, length),
        decoders=0 if vision is None else config.image_workers * MEMORY_BYTES,
    )


def _workspaces(text: Any, vision: Any, head_dim: int, config: EngineConfig, device_type: str, quantized: bool) -> int:
    """Return what the steps of a model and the libraries take as scratch memory."""
    if device_type == "cpu":
        return workspace_bytes("cpu")
    own = own_workspace_bytes(text, vision, head_dim, config.max_num_batched_tokens, config.max_num_seqs)
    return own if quantized else max(workspace_bytes("cuda"), own + CUBLAS_BYTES)


def _image_bytes(vision: Any, config: EngineConfig, length: int) -> int:
    """Return what the images of all admitted requests take at most, each with a byte for each of its values."""
    token = 3 * int(vision.patch_size * vision.spatial_merge_size) ** 2
    return (config.max_num_seqs + config.max_waiting) * image_tokens(length) * token


def _in_blocks(tokens: int) -> int:
    """Return the tokens that whole blocks of these hold."""
    return blocks_for(tokens) * BLOCK
