"""The kernels at both ends of a step against torch, in every precision and for odd sizes."""

from __future__ import annotations

import pytest
import torch

from engine.model.cuda.ends import embed_tokens, take_rows
from engine.model.cuda.formats import BITS, quantize
from tests.engine.model.cuda.compile_kernels import compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds


@pytest.mark.parametrize("size", [1, 100, 3584])
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
def test_tokens_are_embedded_and_tables_updated(size, ids_dtype, dtype, device):
    """Ids of the host, and tokens that only the device knows; places that no update names stay as they are."""
    embedding = torch.randn(9, size).to(device, dtype)
    last_tokens = torch.tensor([7, 3, 8], dtype=torch.int32, device=device)
    ids = torch.tensor([4, -1, 0, -3], dtype=ids_dtype, device=device)
    updates = torch.tensor([[5, 11, 11, 2], [40, 0, 0, 41]], dtype=torch.int32, device=device)
    tables = torch.full((3, 4), 9, dtype=torch.int32, device=device)
    out = torch.empty(4, size + 2, dtype=dtype, device=device)[:, :size]
    embed_tokens(ids, last_tokens, embedding, updates, tables, out)
    assert torch.equal(out, embedding[[4, 7, 0, 8]])
    assert tables.flatten().tolist() == [9, 9, 41, 9, 9, 40, 9, 9, 9, 9, 9, 0]


@pytest.mark.parametrize("size", [40, 256])
@pytest.mark.parametrize("name", BITS)
def test_quantized_embeddings_are_read_as_what_they_stand_for(name, size, dtype, device):
    """Rounded once, to the precision of the step."""
    embedding = quantize([torch.randn(9, size)], name, device)
    ids, none = torch.tensor([4, -1, 8], dtype=torch.int32, device=device), torch.zeros(2, 3, dtype=torch.int32)
    out = torch.empty(3, size, dtype=dtype, device=device)
    embed_tokens(ids, ids.new_tensor([7]), embedding, none.to(device), torch.zeros_like(ids), out)
    assert torch.equal(out, embedding.dequantized()[[4, 7, 8]].to(dtype))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (100, 3), (64, 2000)])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_rows_of_two_matrices_are_taken_at_once(first, second, index_dtype, dtype, device):
    """In any order, and more than once."""
    a, b = torch.randn(5, first).to(device, dtype), torch.randn(5, second + 1).to(device, dtype)[:, :second]
    index = torch.tensor([4, 0, 0], dtype=index_dtype, device=device)
    found = take_rows(a, b, index)
    assert torch.equal(found[0], a[[4, 0, 0]])
    assert torch.equal(found[1], b[[4, 0, 0]])


def launch_all():
    """Launch both kernels at the shape of the 8B in half precision."""
    hidden, ints = torch.zeros(64, 4096, dtype=torch.float16), torch.zeros(2, 64, dtype=torch.int32)
    embed_tokens(ints[0], ints[1], hidden, ints, ints, torch.empty_like(hidden))
    take_rows(hidden, hidden, ints[0])
    for name in BITS:
        embedding = quantize([torch.zeros(2, 4096)], name, hidden.device)
        embed_tokens(ints[0], ints[1], embedding, ints, ints, torch.empty_like(hidden))


def test_they_compile_for_every_architecture(tmp_path):
    """Without spilled registers."""
    for kernels in compiled_by(f"{__name__}:launch_all", tmp_path).values():
        names = ["_embed_tokens", "_take_rows"]
        assert [kernel["kernel"] for kernel in kernels] == [*names, "_embed_tokens", "_embed_tokens"]
        assert all(kernel["spilled_bytes"] == 0 and kernel["registers"] <= 64 for kernel in kernels)
