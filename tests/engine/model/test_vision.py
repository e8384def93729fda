"""The vision tower against the forward pass of transformers."""

import copy
from types import SimpleNamespace

import pytest
import torch

from engine.errors import StartError
from engine.model.image_tokens import ImageTokens, tower_dtype_of
from engine.model.vision import VisionTower, group_equal

GRIDS = [[[1, 4, 4]], [[1, 8, 8], [1, 8, 8]], [[1, 6, 10], [1, 2, 14], [1, 16, 4]]]


@pytest.mark.parametrize("grids", GRIDS)
@torch.inference_mode()
def test_embeddings_equal_those_of_transformers(grids, maybe_kernels, vision_model):
    """For one image, equal images, and images with partial windows at an edge: the same embeddings for each image."""
    model = copy.deepcopy(vision_model.model)
    grid = torch.tensor(grids)
    channels = model.model.visual.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(int(grid.prod(-1).sum()), channels, generator=torch.Generator().manual_seed(1))
    expected = model.model.get_image_features(pixels, grid).pooler_output
    found = VisionTower(model.model.visual, maybe_kernels)(pixels, grid)
    assert len(found) == len(expected) == len(grids)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.needs("cc")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_weights_of_16_bits_leave_the_rotations_exact(dtype, kernels, vision_model):
    """The last patches of a large image are turned furthest, by angles that 16 bits would round."""
    model = copy.deepcopy(vision_model.model)
    exact = VisionTower(copy.deepcopy(model).model.visual, kernels)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    tower = ImageTokens(model, kernels)._tower
    hidden, grid = torch.zeros(48 * 64, tower._config.hidden_size, dtype=tower.dtype), torch.tensor([[1, 48, 64]])
    assert tower._rotary_factors(hidden, grid).equal(exact._rotary_factors(hidden, grid))


def test_the_weights_are_moved_not_copied(vision_model):
    """The modules keep empty tensors, so no weight is held twice."""
    visual = copy.deepcopy(vision_model.model).model.visual
    VisionTower(visual)
    assert visual.patch_embed.proj.weight.numel() == 0
    assert all(block.mlp.down_proj.weight.numel() == 0 for block in visual.blocks)
    assert all(block.attn.qkv.weight.numel() == 0 for block in visual.blocks)


def test_consecutive_windows_of_equal_length_are_one_group():
    """Groups follow the order of the tokens; an empty window forms no group."""
    assert group_equal(torch.tensor([0, 64, 128, 128, 144, 208])) == [(2, 64), (1, 16), (1, 64)]


def test_an_unsupported_activation_stops_the_start():
    """It would give wrong embeddings without an error."""
    with pytest.raises(StartError, match="gelu"):
        VisionTower(SimpleNamespace(config=SimpleNamespace(hidden_act="gelu")))


@pytest.mark.parametrize(
    ("dtype", "device", "computed"),
    [
        (torch.float16, "cuda", torch.bfloat16),
        (torch.bfloat16, "cuda", torch.bfloat16),
        (torch.float32, "cuda", torch.float32),
        (torch.float16, "cpu", torch.float16),
    ],
)
def test_the_tower_never_computes_in_float16_on_a_card(dtype, device, computed):
    """Whichever runner has it: some sizes of images would overflow."""
    assert tower_dtype_of(dtype, device) == computed
