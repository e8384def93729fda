"""All layers in one call give the bits that one call after another gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from engine.model import decoder as decoder_module
from engine.model.attention import AttentionMetadata, KernelAttention, Span, index_of
from engine.model.decoder import Decoder
from engine.model.kv_cache import BlockTables, KVCache
from engine.model.linear import Layout, packings

pytestmark = pytest.mark.needs("cc")
TABLES = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.int32)
# The steps of a run: decode rows, then chunks, each (slot, first position, tokens).
STEPS = (
    ([], [(0, 0, 20), (1, 0, 5)]),
    ([(0, 20, 1), (1, 5, 1)], []),
    ([(0, 21, 1), (0, 22, 1), (0, 23, 1)], []),  # a token and its drafts
    ([(0, 24, 1), (1, 6, 1)], [(2, 0, 33)]),
    ([(2, 33, 1)], [(1, 7, 17)]),
)


def run(decoder, kernels, in_one_call, keep):
    """Return the states of every step, and the cache after them. keep: of how many rows; None: of all."""
    cache = KVCache(decoder.num_layers, 10, decoder.num_kv_heads, decoder.head_dim, torch.float32, decoder.device)
    tables, states = BlockTables(3, 3, TABLES), []
    calls = dict(decoder._in_one_call)
    if not in_one_call:
        decoder._in_one_call = dict.fromkeys(calls)
    for number, (decode, chunks) in enumerate(STEPS):
        spans = [Span(*row) for row in decode], [Span(*row) for row in chunks]
        metadata = AttentionMetadata.of(*spans, tables)
        count = len(metadata.positions)
        ids = torch.from_numpy(np.random.default_rng(number).integers(0, 500, count))
        index = None if keep is None or count < 2 else torch.tensor([count - 1, 0][:keep], dtype=torch.int64)
        rotary = decoder.rotary(index_of(metadata.positions, decoder.device))
        attend = KernelAttention(cache, metadata, kernels)
        states.append(decoder.forward(decoder.embed(ids), rotary, attend, index))
    decoder._in_one_call = calls
    return states, cache.all


@pytest.mark.parametrize("keep", [None, 2, 0])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "quant"),
    [
        (torch.float32, "none"),
        (torch.bfloat16, "none"),
        (torch.float16, "none"),
        (torch.bfloat16, "int8"),
        (torch.float32, "int4"),
    ],
)
@pytest.mark.parametrize("architecture", ["text_model", "vision_model"])
@torch.inference_mode()
def test_one_call_equals_one_after_another(architecture, dtype, quant, threads, keep, kernels, request, monkeypatch):
    """To the bit, states and cache: with and without biases and norms of heads, decode rows, drafts and chunks."""
    monkeypatch.setattr(
        decoder_module, "choose_layout", lambda weights, *others: Layout(packings(weights[0], kernels)["kernels"])
    )
    model = copy.deepcopy(request.getfixturevalue(architecture).model).to(dtype)
    decoder, before = Decoder(model, kernels, quant), torch.get_num_threads()
    assert all(decoder._in_one_call.values())
    torch.set_num_threads(threads)
    try:
        found, cache = run(decoder, kernels, True, keep)
        wanted, other = run(decoder, kernels, False, keep)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    assert torch.equal(cache, other)
    assert found[0].isfinite().all()


@torch.inference_mode()
def test_gemms_of_other_libraries_are_called_one_by_one(text_model, kernels, monkeypatch):
    """Where oneDNN or MKL multiplies, nothing is left to the kernels; with two layouts, each step by its rows."""
    own = packings(text_model.model.model.layers[0].mlp.up_proj.weight.detach(), kernels)["kernels"]
    for layout, one_call in ((Layout(), [False, False]), (Layout(few=own, few_rows=4), [True, False])):
        monkeypatch.setattr(decoder_module, "choose_layout", lambda *arguments, layout=layout: layout)
        decoder = Decoder(copy.deepcopy(text_model.model), kernels)
        assert [decoder._in_one_call[few] is not None for few in (True, False)] == one_call
