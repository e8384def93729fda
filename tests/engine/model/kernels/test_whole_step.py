"""All layers in one call give the bits that one call after another gives."""

from __future__ import annotations

import copy
from array import array

import numpy as np
import pytest
import torch

from engine.model import decoder as decoder_module
from engine.model.attention import AttentionMetadata, KernelAttention, Span, index_of
from engine.model.decoder import Decoder
from engine.model.kv_cache import BlockTables, KVCache
from engine.model.linear import Layout, packings
from tests.engine.model.kernels.test_kernels import rounds

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


LAYERS_IN_ONE_CALL, STEP_IN_ONE_CALL, ONE_BY_ONE = range(3)


def run(decoder, kernels, how, keep):
    """Return the logits of every step, and the cache after them. keep: of how many rows; None: of all."""
    cache = KVCache(decoder.num_layers, 10, decoder.num_kv_heads, decoder.head_dim, torch.float32, decoder.device)
    tables, found = BlockTables(3, 3, TABLES), []
    calls = dict(decoder._in_one_call)
    if how == ONE_BY_ONE:
        decoder._in_one_call = dict.fromkeys(calls)
    for number, (decode, chunks) in enumerate(STEPS):
        spans = [Span(*row) for row in decode], [Span(*row) for row in chunks]
        metadata = AttentionMetadata.of(*spans, tables)
        count = len(metadata.positions)
        ids = array("q", np.random.default_rng(number).integers(0, 500, count))
        kept = None if keep is None or count < 2 else array("q", [count - 1, 0][:keep])
        attend = KernelAttention(cache, metadata, kernels, decoder.rounds_prompts)
        if how == STEP_IN_ONE_CALL:
            found.append(decoder.step(ids, metadata.positions, attend, kept))
            continue
        index = None if kept is None else index_of(kept, decoder.device)
        rotary = decoder.rotary(index_of(metadata.positions, decoder.device))
        found.append(
            decoder.logits(decoder.forward(decoder.embed(index_of(ids, decoder.device)), rotary, attend, index))
        )
    decoder._in_one_call = calls
    return found, cache.all


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
    """To the bit, logits and cache: with and without biases and norms of heads, decode rows, drafts and chunks.

    Of the layers, and of the embeddings, rotations, layers and the head.
    """
    monkeypatch.setattr(
        decoder_module, "choose_layout", lambda weights, *others: Layout(packings(weights[0], kernels)["kernels"])
    )
    model = copy.deepcopy(request.getfixturevalue(architecture).model).to(dtype)
    decoder, before = Decoder(model, kernels, quant), torch.get_num_threads()
    assert all(decoder._in_one_call.values())
    torch.set_num_threads(threads)
    try:
        wanted, other = run(decoder, kernels, ONE_BY_ONE, keep)
        found = [run(decoder, kernels, how, keep) for how in (LAYERS_IN_ONE_CALL, STEP_IN_ONE_CALL)]
    finally:
        torch.set_num_threads(before)
    for logits, cache in found:
        assert all(torch.equal(one, two) for one, two in zip(logits, wanted, strict=True))
        assert torch.equal(cache, other)
    assert wanted[0].isfinite().all()


@pytest.mark.parametrize("threads", [1, 2])
@torch.inference_mode()
def test_one_call_equals_one_after_another_where_prompts_are_rounded(threads, text_model, kernels):
    """To the bit, for heads that are computed in bfloat16 where the processor multiplies it; and it is passed on."""
    config = copy.deepcopy(text_model.model.config)
    config.head_dim = 32
    model = type(text_model.model)(config).to(torch.bfloat16)
    decoder, before = Decoder(model, kernels), torch.get_num_threads()
    assert decoder.rounds_prompts
    torch.set_num_threads(threads)
    try:
        (wanted, other), *found = [
            run(decoder, kernels, how, None) for how in (ONE_BY_ONE, LAYERS_IN_ONE_CALL, STEP_IN_ONE_CALL)
        ]
        decoder.rounds_prompts = False
        plain, _ = run(decoder, kernels, STEP_IN_ONE_CALL, None)
    finally:
        torch.set_num_threads(before)
    for logits, cache in found:
        assert all(torch.equal(one, two) for one, two in zip(logits, wanted, strict=True))
        assert torch.equal(cache, other)
    assert torch.equal(plain[0], wanted[0]) is not rounds(kernels)


@torch.inference_mode()
def test_only_prompts_of_bfloat16_are_rounded(text_model, kernels):
    """Not those of floats or half floats, nor of quantized weights, nor without kernels."""
    formats = [
        (torch.float32, "none"), (torch.float16, "none"), (torch.bfloat16, "int8"), (torch.bfloat16, "none"),
    ]  # fmt: skip
    found = [Decoder(copy.deepcopy(text_model.model).to(dtype), kernels, quant) for dtype, quant in formats]
    assert [decoder.rounds_prompts for decoder in found] == [False, False, False, True]
    assert not Decoder(copy.deepcopy(text_model.model).to(torch.bfloat16)).rounds_prompts


@torch.inference_mode()
def test_gemms_of_other_libraries_are_called_one_by_one(text_model, kernels, monkeypatch):
    """Where oneDNN or MKL multiplies, nothing is left to the kernels; with two layouts, each step by its rows."""
    own = packings(text_model.model.model.layers[0].mlp.up_proj.weight.detach(), kernels)["kernels"]
    for layout, one_call in ((Layout(), [False, False]), (Layout(few=own, few_rows=4), [True, False])):
        monkeypatch.setattr(decoder_module, "choose_layout", lambda *arguments, layout=layout: layout)
        decoder = Decoder(copy.deepcopy(text_model.model), kernels)
        assert [decoder._in_one_call[few] is not None for few in (True, False)] == one_call
        for few, rows in ((True, 4), (False, 5)):
            logits = step_of(decoder, kernels, [7] * rows)
            assert (logits is not None) == one_call[not few]


def step_of(decoder, kernels, ids):
    """Return the logits of a chunk of these tokens, None if they are not computed in one call."""
    cache = KVCache(decoder.num_layers, 10, decoder.num_kv_heads, decoder.head_dim, torch.float32, decoder.device)
    metadata = AttentionMetadata.of([], [Span(0, 0, len(ids))], BlockTables(3, 3, TABLES))
    return decoder.step(array("q", ids), metadata.positions, KernelAttention(cache, metadata, kernels))


@pytest.mark.parametrize("wrong", [-1, 2**40])
@torch.inference_mode()
def test_an_id_that_is_no_token_is_refused(wrong, text_model, kernels):
    """As by torch's embedding: the kernels would read memory of others."""
    decoder = Decoder(copy.deepcopy(text_model.model).to(torch.bfloat16), kernels)
    assert step_of(decoder, kernels, [7, decoder.vocab_size - 1]).isfinite().all()
    for one in (wrong, decoder.vocab_size):
        with pytest.raises(IndexError):
            step_of(decoder, kernels, [7, one])


@torch.inference_mode()
def test_long_positions_have_the_rotations_that_are_computed_for_them(text_model, kernels):
    """The table of rotations grows with them; its values are those of single positions."""
    decoder = Decoder(copy.deepcopy(text_model.model).to(torch.bfloat16), kernels)
    for count in (1, 256, 257, 5000):
        table = decoder._rotary.table(count)
        positions = torch.tensor([0, count // 2, count - 1])
        assert torch.equal(table[positions], decoder.rotary(positions))
