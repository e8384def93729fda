"""The vision tower of Qwen2.5-VL: computes the embeddings of all images of a step from their patches.

The weights are moved out of the loaded transformers model. Two things differ from the forward pass of transformers: the
patch embedding is a GEMM (its convolution kernel covers the whole patch), and consecutive windows of the same size are
one attention call; a large image has about a hundred windows per layer, which transformers launches one by one.

Source: Qwen2.5-VL, arXiv:2502.13923, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from engine.errors import StartError
from engine.model.kernels.library import Kernels
from engine.model.layers import QkNormRope, RmsNorm, interleave, join, silu_and_mul, take_weights
from engine.model.linear import Layout, Linear, choose_layout, packed, packing_of
from engine.model.sampler import to_device

WindowGroups = list[tuple[int, int]]  # (number of windows, tokens in each), in token order


@dataclass(frozen=True, slots=True)
class _Block:
    norm1: RmsNorm
    qkv: Linear
    proj: Linear
    norm2: RmsNorm
    gate_up: Linear
    down: Linear
    full: bool


class VisionTower:
    """Computes image embeddings.

    visual: the `Qwen2_5_VisionTransformerPretrainedModel` of the model; its weights are moved here. kernels: used on
    the CPU; None for torch alone. With them, weights of 16 bits are packed and the tower computes in float32. Raises
    StartError for an unsupported activation.
    """

    def __init__(self, visual: Any, kernels: Kernels | None = None) -> None:
        config = self._config = visual.config
        if config.hidden_act != "silu":
            raise StartError(f"The vision tower's activation is {config.hidden_act!r}; the engine supports silu only.")
        self._heads: int = config.num_heads
        self._head_dim: int = config.hidden_size // config.num_heads
        self._merge: int = config.spatial_merge_size**2
        self._rotary = visual.rotary_pos_emb
        embed, bias = take_weights(visual.patch_embed.proj)
        self._packing = packing_of(embed.dtype, "none", embed.device, kernels)
        self.dtype: torch.dtype = torch.float32 if self._packing else embed.dtype
        self._kernels = kernels if (embed.device.type, self.dtype) == ("cpu", torch.float32) else None
        self._qk_norm_rope = QkNormRope(kernels=self._kernels)
        weights = [w.weight.detach() for block in visual.blocks for w in (block.mlp.down_proj, block.mlp.gate_proj)]
        total = sum(p.nbytes for p in visual.parameters())
        layout = packed(self._packing) if self._packing else choose_layout(weights, total, self._kernels)
        full = set(config.fullatt_block_indexes)
        self._blocks = [self._take_block(block, index in full, layout) for index, block in enumerate(visual.blocks)]
        self._embed = Linear(embed.flatten(1), bias, layout)
        merger = visual.merger
        self._norm = self._rms_norm(merger.ln_q)
        self._merge_up, self._merge_down = (Linear(*take_weights(merger.mlp[i]), layout) for i in (0, 2))

    def __call__(self, pixels: Tensor, grids: Tensor) -> list[Tensor]:
        """Return the embeddings [patches / merge^2, hidden] of each image.

        pixels: [patches, channels * 2 * patch^2] of all images, in merge order; grids: [images, 3], in patches, on the
        host, where the layout of the windows is computed: the device is never waited for.
        """
        device = pixels.device
        order, windows = get_vision_window_index(
            grids, self._config.spatial_merge_size, self._config.window_size, self._config.patch_size
        )
        images = get_vision_attention_seqlens(grids, self._config)[0]
        back, order = to_device(torch.argsort(order), device), to_device(order, device)
        hidden = self._in_windows(self._embed(pixels.to(self.dtype)), order)
        rotary = self._in_windows(self._rotary_factors(hidden, grids), order)[:, None]
        groups = {True: group_equal(images), False: group_equal(windows)}
        for block in self._blocks:
            hidden = self._forward(block, hidden, rotary, groups[block.full])
        merged = self._norm(hidden).view(-1, self._merge * hidden.shape[1])
        merged = self._merge_down(F.gelu(self._merge_up(merged)))[back]
        return list(merged.split((grids.prod(-1) // self._merge).tolist()))

    def _forward(self, block: _Block, hidden: Tensor, rotary: Tensor, groups: WindowGroups) -> Tensor:
        qkv = block.qkv(block.norm1(hidden)).view(hidden.shape[0], -1, self._head_dim)
        self._qk_norm_rope(qkv[:, : 2 * self._heads], rotary)
        hidden = block.proj(_attend(qkv.unflatten(1, (3, self._heads)), groups), hidden)
        return block.down(silu_and_mul(block.gate_up(block.norm2(hidden)), self._kernels), hidden)

    def _in_windows(self, rows: Tensor, order: Tensor) -> Tensor:
        """Reorder rows [patches, ...] by window; patches that are merged stay adjacent."""
        reordered: Tensor = rows.unflatten(0, (-1, self._merge))[order].flatten(0, 1)
        return reordered

    def _rotary_factors(self, hidden: Tensor, grids: Tensor) -> Tensor:
        """Return the rotation factors, complex [patches, D/2]."""
        positions = to_device(get_vision_position_ids(grids, self._config.spatial_merge_size), hidden.device)
        cos, sin = (part[:, : self._head_dim // 2].float() for part in self._rotary(hidden.float(), positions))
        return torch.complex(cos, sin)

    def _take_block(self, block: Any, full: bool, layout: Layout) -> _Block:
        """Move the weights of one block here; the module keeps empty tensors."""
        attention, mlp = block.attn, block.mlp
        halves = (mlp.gate_proj, mlp.up_proj)
        norm1 = self._rms_norm(block.norm1, attention.qkv)
        norm2 = self._rms_norm(block.norm2, *halves)
        parts = [self._interleave_qk(part) for part in take_weights(attention.qkv) if part is not None]
        gate_up = Linear(*join([take_weights(half) for half in halves]), layout)
        down, proj = (Linear(*take_weights(linear), layout) for linear in (mlp.down_proj, attention.proj))
        qkv = Linear(parts[0], parts[1] if len(parts) > 1 else None, layout)
        return _Block(norm1=norm1, qkv=qkv, proj=proj, norm2=norm2, gate_up=gate_up, down=down, full=full)

    def _rms_norm(self, norm: Any, *projections: Any) -> RmsNorm:
        """Return a norm; where weights are packed, none is folded into them."""
        if self._packing is None:
            return RmsNorm(norm.weight, norm.variance_epsilon, *projections, kernels=self._kernels)
        return RmsNorm(norm.weight.detach().float(), norm.variance_epsilon, kernels=self._kernels)

    def _interleave_qk(self, rows: Tensor) -> Tensor:
        """Interleave the rotary pairs of queries and keys, not of values. rows: [3 * heads * D, ...]."""
        rotated = 2 * self._heads * self._head_dim
        return torch.cat([interleave(rows[:rotated], self._head_dim), rows[rotated:]])


def group_equal(ends: Tensor) -> WindowGroups:
    """Group consecutive windows of equal length. ends: cumulative lengths, starting with 0."""
    lengths = [length for length in ends.diff().tolist() if length]
    return [(len(list(same)), length) for length, same in groupby(lengths)]


def _attend(qkv: Tensor, groups: WindowGroups) -> Tensor:
    """Return the attention [T, heads * D] within each window. qkv: [T, 3, heads, D]."""
    parts = []
    for (count, length), rows in zip(groups, qkv.split([count * length for count, length in groups]), strict=True):
        q, k, v = rows.unflatten(0, (count, length)).permute(2, 0, 3, 1, 4).unbind(0)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
