"""What the steps of a model take of its device's memory, beside weights and KV cache. Estimates, each from above.

All sizes are in bytes and follow from the configuration of a checkpoint and the limits of the engine.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.loading.loader import image_tokens
from engine.model.cuda.attention_plan import AttentionPlanner
from engine.model.cuda.formats import SCRATCH_BYTES
from engine.model.scoring import PART_BYTES

MIB = 2**20
HIDDEN_COPIES = 6  # copies of the hidden states of a step that exist at once
FFN_COPIES = 3  # the same for the intermediate states of the feed-forward layers
LOGITS_COPIES = 4  # float32 copies of the logits of a step that exist at once during sampling
TOWER_HIDDEN_COPIES = 10  # of the vision tower, where queries, keys and values are copied apart
PIXEL_BYTES = 16  # of each value of a patch on its way from a byte to the tower's input
# The context with the code of all kernels, and what the driver keeps of the card for itself.
CONTEXT_BYTES = 768 * MIB
# cuBLAS has a workspace of 32 MiB for each stream on Hopper, of two streams; the partial results of attention over long
# contexts take the rest.
WORKSPACE_BYTES = {"cpu": 0, "cuda": 320 * MIB}
# The same for quantized weights, whose only products of cuBLAS are those of a vision tower: what its two streams take,
# and partial results on a card of so many multiprocessors.
CUBLAS_BYTES = 64 * MIB
MOST_MULTIPROCESSORS = 192
# Quantized weights have no path without our own sampler: the logits of all rows, a copy of those whose log
# probabilities are wanted, some parts of them at a time, and its buffers, of which the largest lists this many tokens.
# Before that copy is made, prompts that are scored take its place: logits, and as much again (`scoring.part_rows`).
OWN_LOGITS_COPIES = 2
LISTED_BYTES = 8 * 20_000
GRAPH_BYTES = {"cpu": 0, "cuda": 512 * MIB}  # of all sizes of a step, their buffers included
MARGIN = 1 / 64  # of a card's memory: holes of the allocator, and what no line foresees


def work_bytes(text: Any, tokens: int, dtype: torch.dtype) -> int:
    """Return what the activations of a step of this many tokens take."""
    row: int = HIDDEN_COPIES * text.hidden_size + FFN_COPIES * text.intermediate_size
    return tokens * row * dtype.itemsize


def fp8_work_bytes(text: Any, tokens: int) -> int:
    """Return what the widest product of a step takes beside in FP8: its sums in bfloat16, and its tokens."""
    return int(tokens * (2 * 2 * text.intermediate_size + max(text.intermediate_size, text.hidden_size)))


def sampling_bytes(text: Any, rows: int) -> int:
    """Return what the logits of this many rows take while tokens are drawn from them."""
    return int(LOGITS_COPIES * rows * text.vocab_size * 4)


def own_sampling_bytes(text: Any, rows: int) -> int:
    """Return what `sampling_bytes` does where our own kernels are the only sampler."""
    return rows * int(OWN_LOGITS_COPIES * text.vocab_size * 4 + LISTED_BYTES) + LOGITS_COPIES * PART_BYTES


def vision_bytes(vision: Any, tokens: int, length: int, dtype: torch.dtype) -> int:
    """Return what the vision tower takes for the images of one step.

    The scheduler sees to it that these are one image, as large as a context allows, or have at most `tokens` tokens
    together.
    """
    patches = max(tokens, image_tokens(length)) * int(vision.spatial_merge_size) ** 2
    values = int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    row = TOWER_HIDDEN_COPIES * vision.hidden_size + FFN_COPIES * vision.intermediate_size
    return patches * int(values * PIXEL_BYTES + row * dtype.itemsize)


def workspace_bytes(device_type: str) -> int:
    """Return what the libraries keep on `cpu` or `cuda` as scratch memory."""
    return WORKSPACE_BYTES[device_type]


def own_workspace_bytes(text: Any, vision: Any, head_dim: int, tokens: int, rows: int) -> int:
    """Return what steps of this many tokens and rows take as scratch memory where weights are quantized."""
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    planner = AttentionPlanner(heads, kv_heads, MOST_MULTIPROCESSORS, rows)
    partial = int(heads) * (head_dim + 3) * 4
    return planner.max_partials(tokens + rows) * partial + SCRATCH_BYTES + (CUBLAS_BYTES if vision is not None else 0)


def graph_bytes(device_type: str) -> int:
    """Return what CUDA graphs take on `cuda`."""
    return GRAPH_BYTES[device_type]


def gpu_reserve(total: int) -> int:
    """Return what of a card's total memory no model may use."""
    return CONTEXT_BYTES + int(total * MARGIN)
