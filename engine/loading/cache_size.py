"""Chooses the size of each model's KV cache where KV_CACHE_TOKENS leaves it open.

The models of a device share what its total memory leaves beside their weights and steps, so that each holds as many
sequences of its full length. Free memory is not looked at: the same machine always starts the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.loading.control_groups import cgroup_limit
from engine.loading.host import total_bytes
from engine.loading.memory_budget import MemoryBudget, default_contexts, estimate_budget
from engine.loading.quantization import check_quant
from engine.loading.step_memory import gpu_reserve
from engine.schedule.block_pool import BLOCK, blocks_for
from engine.types import EngineConfig, ModelSpec

HOST_SHARE = 1 / 2  # of the room on a machine, which others use as well
GROUP_SHARE = 0.9  # of the room in a control group, whose limit is meant for this service

Planned = tuple[ModelSpec, EngineConfig]


def with_cache_sizes(
    models: Sequence[Planned],
    rest: int = 0,
    total: Callable[[str], int] = total_bytes,
    limit: Callable[[], int | None] = cgroup_limit,
) -> list[Planned]:
    """Return the models with the size of each one's KV cache filled in. Raises StartError for an invalid checkpoint,
    or a format of weights that a device does not compute.

    rest: what the service takes of the host's memory beside the models, in bytes; total: returns the memory of a
    device; limit: returns that of the control group, None without one. A cache has at least one context, whether that
    fits or not, and at most what all sequences together can use.
    """
    for spec, _ in models:
        check_quant(spec)
    budgets = {spec.name: estimate_budget(spec, config) for spec, config in models}
    sized = {spec.name: config.kv_cache_tokens for spec, config in models}
    for device in {spec.device for spec, config in models if not config.kv_cache_tokens}:
        here = [(spec, config) for spec, config in models if spec.device == device]
        taken = sum(_fixed(budgets[spec.name], config) for spec, config in here)
        copies = 2 if here[0][1].reload_reserve else 1
        if device == "cpu":
            room = _host_room(taken + rest, total(device), limit(), copies)
        else:
            copy = total(device) // copies
            room = copy - gpu_reserve(copy) - taken
        sized |= _split([(spec, config) for spec, config in here if not config.kv_cache_tokens], budgets, room)
    return [(spec, replace(config, kv_cache_tokens=sized[spec.name])) for spec, config in models]


def _fixed(budget: MemoryBudget, config: EngineConfig) -> int:
    """Return what a model takes whatever is chosen here; an open size counts as nothing."""
    return budget.total if config.kv_cache_tokens else budget.total - budget.cache + BLOCK * budget.token_bytes


def _host_room(taken: int, total: int, limit: int | None, copies: int) -> int:
    rooms = [int((total - taken) * HOST_SHARE), total // copies - taken]
    if limit is not None:
        rooms.append(int((limit // copies - taken) * GROUP_SHARE))
    return min(rooms)


def _split(models: Sequence[Planned], budgets: dict[str, MemoryBudget], room: int) -> dict[str, int]:
    """Return the tokens of each model's cache: as many contexts for each as fit into `room` bytes."""
    lengths = {spec.name: blocks_for(budgets[spec.name].max_model_len) * BLOCK for spec, _ in models}
    context_bytes = sum(length * budgets[name].token_bytes for name, length in lengths.items())
    contexts = max(1.0, room / context_bytes)
    most = {spec.name: default_contexts(config) for spec, config in models}
    return {name: int(min(contexts, most[name]) * length) // BLOCK * BLOCK for name, length in lengths.items()}
