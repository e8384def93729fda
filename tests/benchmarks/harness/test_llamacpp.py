"""A checkpoint read for llama.cpp without torch: names and values of its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.harness.llamacpp import named, tensors

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_as_float32(dtype, tmp_path) -> None:
    """Whatever they are stored as, with their shapes."""
    stored = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype)}
    save_file(stored, tmp_path / "model.safetensors")
    found = dict(tensors(tmp_path))
    assert found.keys() == stored.keys()
    assert all(torch.equal(torch.from_numpy(found[name].copy()), stored[name].float()) for name in stored)


def test_every_tensor_of_a_checkpoint_has_a_name() -> None:
    """And no two have the same."""
    names = [name for name, _ in tensors(ROOT / "demo" / "avibe")]
    assert len({named(name) for name in names}) == len(names) > 10
    assert named("model.layers.3.mlp.up_proj.weight") == "blk.3.ffn_up.weight"
    assert named("model.norm.weight") == "output_norm.weight"
