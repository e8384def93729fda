"""The checkpoint of Qwen3-0.6B's shape, which the comparison with llama.cpp needs; its small form is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from benchmarks import make_model
from benchmarks.harness.checkpoints import SMALL_QWEN3, WIDE_VOCABULARY, small_qwen3
from benchmarks.harness.llamacpp import named, tensors
from benchmarks.offline import spec
from engine.loading.loader import load_model
from tests.checkpoints import write_text_checkpoint

TEXT = "a red bicycle, <|im_end|>"


def made(folder: Path, *options: str) -> Path:
    """Return the folder of a small one."""
    make_model.main([str(folder), "--kind", SMALL_QWEN3, "--tiny", *options])
    return folder


def test_the_shape_is_that_of_the_published_model() -> None:
    """596,049,920 parameters in 28 layers, as its card says: 0.6 billion, of which 0.44 are no embedding."""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(small_qwen3())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (count, model.config.num_hidden_layers) == (596_049_920, 28)
    assert round((count - model.get_input_embeddings().weight.numel()) / 1e9, 2) == 0.44


@pytest.mark.slow
def test_the_folder_is_served_by_the_engine_and_by_llama_cpp(tmp_path: Path) -> None:
    """It loads, its tokenizer has as many tokens as the model, and each tensor has a name in GGUF."""
    folder = made(tmp_path / "model")
    loaded = load_model(spec(folder, vision=False), lambda progress: None, 64)
    assert loaded.vocab_size == WIDE_VOCABULARY == len(AutoTokenizer.from_pretrained(folder))
    stored = {named(name): values.shape for name, values in tensors(folder)}
    assert stored["token_embd.weight"] == (WIDE_VOCABULARY, 64)
    assert {name.split(".")[1] for name in stored if name.startswith("blk.")} == {"0", "1"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000_000


@pytest.mark.slow
def test_another_tokenizer_may_be_given(tmp_path: Path) -> None:
    """Such as that of the published model; the model keeps its size."""
    other = write_text_checkpoint(tmp_path / "other")
    folder = made(tmp_path / "model", "--tokenizer", str(other))
    found, wanted = (AutoTokenizer.from_pretrained(each) for each in (folder, other))
    assert found.encode(TEXT) == wanted.encode(TEXT)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == WIDE_VOCABULARY


@pytest.mark.slow
def test_the_same_command_makes_the_same_weights(tmp_path: Path) -> None:
    """So that everybody compares with the same model."""
    one, other = (made(tmp_path / name) / "model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_options_of_one_kind_are_refused_with_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rather than left out in silence."""
    with pytest.raises(SystemExit):
        make_model.main([str(tmp_path / "model"), "--tiny"])
    assert SMALL_QWEN3 in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
