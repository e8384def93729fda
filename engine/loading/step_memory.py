"""What the steps of a model take of its device's memory, beside weights and KV cache. Estimates, each from above.

All sizes are in bytes and follow from the configuration of a checkpoint and the limits of the engine.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.loading.loader import image_tokens

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
GRAPH_BYTES = {"cpu": 0, "cuda": 512 * MIB}  # of all sizes of a step, their buffers included
MARGIN = 1 / 64  # of a card's memory: holes of the allocator, and what no line foresees


def work_bytes(text: Any, tokens: int, dtype: torch.dtype) -> int:
    """Return what the activations of a step of this many tokens take."""
    row: int = HIDDEN_COPIES * text.hidden_size + FFN_COPIES * text.intermediate_size
    return tokens * row * dtype.itemsize


def sampling_bytes(text: Any, rows: int) -> int:
    """Return what the logits of this many rows take while tokens are drawn from them."""
    return int(LOGITS_COPIES * rows * text.vocab_size * 4)


def vision_bytes(vision: Any, tokens: int, length: int, dtype: torch.dtype) -> int:
    """Return what the vision tower takes for the images of one step.

    The images of a sequence are embedded together when it starts. Sequences start in order, so all but the last of a
    step are whole in it: their images have at most `tokens` tokens, and those of the last one what a context allows.
    """
    patches = (tokens + image_tokens(length)) * int(vision.spatial_merge_size) ** 2
    values = int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    row = TOWER_HIDDEN_COPIES * vision.hidden_size + FFN_COPIES * vision.intermediate_size
    return patches * int(values * PIXEL_BYTES + row * dtype.itemsize)


def workspace_bytes(device_type: str) -> int:
    """Return what the libraries keep on `cpu` or `cuda` as scratch memory."""
    return WORKSPACE_BYTES[device_type]


def graph_bytes(device_type: str) -> int:
    """Return what CUDA graphs take on `cuda`."""
    return GRAPH_BYTES[device_type]


def gpu_reserve(total: int) -> int:
    """Return what of a card's total memory no model may use."""
    return CONTEXT_BYTES + int(total * MARGIN)
