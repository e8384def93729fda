"""The flat forward pass against that of transformers, and the variants it does not support."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.errors import StartError
from engine.model.attention import AttentionMetadata, Span, TorchAttention
from engine.model.decoder import Decoder
from engine.model.kv_cache import BlockTables, KVCache


def run(decoder, ids, keep=None):
    """Return the logits of one prompt, computed in blocks 1 and 2 of a cache."""
    cache = KVCache(decoder.num_layers, 3, decoder.num_kv_heads, decoder.head_dim, torch.float32, torch.device("cpu"))
    tables = BlockTables(1, 2, np.array([[1, 2]], dtype=np.int32))
    attend = TorchAttention(cache, AttentionMetadata.of([], [Span(0, 0, len(ids))], tables))
    hidden = decoder.embed(torch.tensor(ids))
    return decoder.logits(decoder.forward(hidden, decoder.rotary(torch.arange(len(ids))), attend, keep))


@pytest.mark.parametrize("architecture", ["text_model", "vision_model"])
@torch.inference_mode()
def test_logits_equal_those_of_transformers(architecture, maybe_kernels, request):
    """At every position, and at the positions in `keep` only; for both architectures."""
    model = copy.deepcopy(request.getfixturevalue(architecture).model)
    ids = [5, 99, 300, 7, 7, 201, 42]
    expected = model(torch.tensor([ids])).logits[0]
    decoder = Decoder(model, maybe_kernels)
    torch.testing.assert_close(run(decoder, ids), expected, rtol=1e-3, atol=1e-3)
    kept = run(decoder, ids, torch.tensor([2, 6]))
    torch.testing.assert_close(kept, expected[[2, 6]], rtol=1e-3, atol=1e-3)


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("dtype", "quant", "error"),
    [
        (torch.bfloat16, "none", 0.02),
        (torch.float16, "none", 0.002),
        (torch.float32, "int8", 0.04),
        (torch.bfloat16, "int8", 0.04),
        (torch.float32, "int4", 0.4),
    ],
)
@pytest.mark.parametrize("architecture", ["text_model", "vision_model"])
@torch.inference_mode()
def test_packed_weights_give_nearly_the_same_logits(architecture, dtype, quant, error, kernels, request):
    """The error, relative to the logits of float32, is that of rounding the weights once; states are float32."""
    model = copy.deepcopy(request.getfixturevalue(architecture).model)
    ids = [5, 99, 300, 7, 7, 201, 42]
    expected = model(torch.tensor([ids])).logits[0]
    decoder = Decoder(model.to(dtype), kernels, quant)
    assert decoder.dtype == torch.float32
    found = run(decoder, ids)
    assert 0 < (found - expected).norm() / expected.norm() < error
    torch.testing.assert_close(run(decoder, ids, torch.tensor([2, 6])), found[[2, 6]])


@pytest.mark.needs("cc")
@pytest.mark.parametrize("quant", ["none", "int8"])
def test_packed_weights_are_held_once(quant, text_model, kernels):
    """No float of a linear layer or of the embeddings stays in the module."""
    model = copy.deepcopy(text_model.model).to(torch.bfloat16)
    Decoder(model, kernels, quant)
    assert max(parameter.numel() for parameter in model.parameters()) <= model.config.hidden_size


def test_quantized_weights_need_the_kernels(text_model):
    """Where there are none, the start ends with what is missing."""
    with pytest.raises(StartError, match="int8"):
        Decoder(copy.deepcopy(text_model.model), None, "int8")


def test_the_weights_are_moved_not_copied(text_model):
    """The modules keep empty tensors, so no weight is held twice."""
    model = copy.deepcopy(text_model.model)
    Decoder(model)
    assert all(layer.self_attn.q_proj.weight.numel() == 0 for layer in model.model.layers)
    assert all(layer.mlp.down_proj.weight.numel() == 0 for layer in model.model.layers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
    ],
)
def test_an_unsupported_variant_stops_the_start(changes, words):
    """It would give wrong answers without an error."""
    config = {"layer_types": ["full_attention"], "hidden_act": "silu", "rope_parameters": None} | changes
    model = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(**config)))
    with pytest.raises(StartError, match=words):
        Decoder(model)
