"""Weights that cannot be quantized end the start, by their name."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import StartError
from engine.loading.loader import load_model
from engine.loading.quantization import check_quant, naming_damage
from engine.model.cuda.runner import CudaRunner, placement
from engine.model.runners import make_runner
from engine.types import EngineConfig
from tests.checkpoints import text_spec, write_text_checkpoint

NAMES = ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight")


def refusal(folder, device, capability=(9, 0), **changes):
    """Return why a start in FP8 is refused."""
    spec = text_spec(folder, device=device, quant="fp8", quant_setting="VIBE_QUANT", **changes)
    with pytest.raises(StartError) as stopped:
        check_quant(spec, lambda device: capability)
    return str(stopped.value)


@pytest.mark.needs("cc")
def test_fp8_needs_a_gpu_that_multiplies_it(text_folder):
    """Neither a processor nor an A100 does; an L4 and an H100 do."""
    for device, capability in (("cpu", (9, 0)), ("cuda:1", (8, 0)), ("cuda", (8, 6))):
        reason = refusal(text_folder, device, capability)
        assert reason.startswith(f"VIBE_QUANT=fp8: expected none, int8 or int4 on {device}: fp8 needs a GPU")
    for capability in ((8, 9), (9, 0), (12, 0)):
        check_quant(text_spec(text_folder, device="cuda", quant="fp8"), lambda device, has=capability: has)


def test_fp8_needs_multiples_of_16(tmp_path):
    """A weight that is none is named."""
    folder = tmp_path / "odd"
    write_text_checkpoint(folder, intermediate_size=100)
    assert "layers.0.mlp.down_proj.weight is 64 x 100" in refusal(folder, "cuda")


def damaged(folder, target, name):
    """Copy a checkpoint; one value of this tensor is infinite."""
    shutil.copytree(folder, target)
    for file in target.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            tensors[name][3, 7] = torch.inf
            save_file(tensors, file, {"format": "pt"})
    return target


@pytest.mark.needs("cc")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_a_weight_that_is_no_finite_number_ends_the_start_by_its_name(quant, name, text_folder, tmp_path):
    """On a processor and on a card."""
    spec = text_spec(damaged(text_folder, tmp_path / "copy", name), quant=quant)
    loaded = load_model(spec, lambda progress: None)
    with pytest.raises(StartError, match=name), naming_damage(spec):
        make_runner(loaded.model, 20, EngineConfig(max_num_seqs=2), 64, print, spec)
    loaded = load_model(spec, lambda progress: None)
    with pytest.raises(StartError, match=name), naming_damage(spec):
        CudaRunner(loaded.model, 20, rows=2, longest_context=64, longest_step=64, place=placement(spec))
