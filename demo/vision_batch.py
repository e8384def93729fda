"""Feed many small images through Qwen2.5-VL's tower at once, grouped by grid, as training needs it.

Contract: the features equal those of the library's own forward pass when every block uses full attention
(Qwen2.5-VL, arXiv:2502.13923, section 2.1); the tests compare the two.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_position_ids

PATCH, MERGE = 14, 2
MIN_PIXELS, MAX_PIXELS = 112 * 112, 140 * 140
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
Grid = tuple[int, int]
Patches = NDArray[np.floating]
Prepared = tuple[Patches, Grid]
# The library's vision tower and its attention; their parts have types only in the library's own code.
Tower = Any
Attention = Any


def resized(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) in pixels at which the tower sees an image."""
    height, width = smart_resize(image.height, image.width, PATCH * MERGE, MIN_PIXELS, MAX_PIXELS)
    return width, height


def patches(image: Image.Image) -> Prepared:
    """Return ([N, 3 * 14 * 14] normalised patches in merge order, (rows, columns)), without the doubled time axis."""
    image = image.convert("RGB")
    width, height = resized(image)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    pixels = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    rows, columns = height // PATCH, width // PATCH
    blocks = pixels.reshape(3, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH)
    return blocks.transpose(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, -1), (rows, columns)


def cosine_basis(count: int) -> NDArray[np.float64]:
    """Return the `count` lowest two-dimensional cosines over one patch, [count, 14, 14], each of unit length."""
    angles = (np.arange(PATCH) + 0.5) * np.pi / PATCH
    waves = np.cos(np.outer(np.arange(PATCH), angles))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    order = sorted(
        ((row, column) for row in range(PATCH) for column in range(PATCH)), key=lambda pair: (sum(pair), pair)
    )
    return np.stack([np.outer(waves[row], waves[column]) for row, column in order[:count]])


@torch.no_grad()
def start_from_cosines(tower: Tower, samples: Patches) -> None:
    """Set the patch embedding to low cosines of brightness (three fifths) and of two colour contrasts (the rest).

    Each is scaled to unit deviation over `samples`, [N, 588] patches, so that edges weigh as much as flat colour.
    """
    weight = tower.patch_embed.proj.weight
    width = len(weight)
    bright, contrast = width - 2 * (width // 5), width // 5
    mixes = ((bright, (1, 1, 1)), (contrast, (1, -1, 0)), (contrast, (-0.5, -0.5, 1)))
    rows = [np.array(mix)[:, None, None] * wave for count, mix in mixes for wave in cosine_basis(count)]
    basis = np.stack(rows).astype(np.float32)
    spread = (samples @ basis.reshape(width, -1).T).std(0)
    scaled = torch.from_numpy(basis / spread[:, None, None, None])
    weight.copy_(scaled[:, :, None].expand_as(weight) / weight.shape[2])


def attend(attention: Attention, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return full attention over each image of a batch, [B, N, D] to [B, N, D]."""
    batch, length, _ = hidden.shape
    query, key, value = attention.qkv(hidden).view(batch, length, 3, attention.num_heads, -1).unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    mixed = functional.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    projected: Tensor = attention.proj(mixed.transpose(1, 2).reshape(batch, length, -1))
    return projected


def same_grid_features(tower: Tower, pixels: Tensor, grid: Grid) -> Tensor:
    """Return [B, N / 4, out] features of B images of one grid, from [B, N, 588] patches."""
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = functional.linear(pixels, weight)
    positions = get_vision_position_ids(torch.tensor([[1, *grid]]), MERGE)
    cos, sin = tower.rotary_pos_emb(hidden, positions)
    for block in tower.blocks:
        hidden = hidden + attend(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = tower.merger.mlp(tower.merger.ln_q(hidden).view(-1, tower.merger.hidden_size))
    return merged.view(len(pixels), -1, merged.shape[-1])


def features(tower: Tower, images: list[Prepared]) -> list[Tensor]:
    """Return the [N / 4, out] features of each image, in the order given."""
    groups: dict[Grid, list[int]] = defaultdict(list)
    for index, (_, grid) in enumerate(images):
        groups[grid].append(index)
    found: dict[int, Tensor] = {}
    for grid, indices in groups.items():
        stacked = torch.from_numpy(np.stack([images[index][0] for index in indices]))
        found.update(zip(indices, same_grid_features(tower, stacked, grid), strict=True))
    return [found[index] for index in range(len(images))]
