"""Which runner a model gets, and what happens where its kernels cannot be built."""

from types import SimpleNamespace

import pytest
import torch

from engine.errors import StartError
from engine.loading.loader import load_model
from engine.model import runners
from engine.model.runner import ModelRunner
from engine.types import EngineConfig
from tests.checkpoints import text_spec

CONFIG = EngineConfig(max_num_seqs=2)


@pytest.fixture
def model(text_folder):
    """A model of its own, whose weights a runner may take."""
    return load_model(text_spec(text_folder), lambda progress: None).model


def test_a_processor_has_the_runner_of_processors(model):
    """With its kernels in C where they can be built."""
    assert type(runners.make_runner(model, 20, CONFIG, 64, print)) is ModelRunner


def test_quantized_weights_need_the_kernels_of_a_card(model, text_folder, monkeypatch):
    """There is no other path for them, so the start ends with the reason."""

    def broken(name):
        raise ImportError("Failed to find C compiler.")

    monkeypatch.setattr(runners, "import_module", broken)
    spec = text_spec(text_folder, device="cuda", quant="int8", quant_setting="VIBE_QUANT")
    with pytest.raises(StartError, match="VIBE_QUANT=int8: expected none on this machine.*Failed to find C compiler"):
        runners.make_runner(model, 20, CONFIG, 64, print, spec)


def test_a_card_without_a_compiler_runs_on_operations_of_torch(model, monkeypatch, caplog):
    """Triton compiles when a kernel is first used; where it cannot, the start says so and goes on."""

    class Unusable:
        @staticmethod
        def compile_first(device):
            raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(runners, "import_module", lambda name: Unusable)
    assert type(runners._cuda_runner(model, 20, CONFIG, 64, print)) is ModelRunner
    assert "The CUDA kernels cannot be built" in caplog.text
    assert "Failed to find C compiler" in caplog.text


def test_operations_of_torch_are_set_up_without_the_kernels_too(model, monkeypatch):
    """cuDNN plans attention anew for each shape, and sums of 16 bits are too coarse: neither is used on any path."""
    chosen, matmul = [], SimpleNamespace()
    cuda = SimpleNamespace(matmul=matmul, enable_cudnn_sdp=chosen.append)
    monkeypatch.setattr(torch.backends, "cuda", cuda)

    def missing(name):
        assert matmul.allow_fp16_reduced_precision_reduction is False
        assert matmul.allow_bf16_reduced_precision_reduction is False
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(runners, "import_module", missing)
    assert type(runners._cuda_runner(model, 20, CONFIG, 64, print)) is ModelRunner
    assert chosen == [False]
