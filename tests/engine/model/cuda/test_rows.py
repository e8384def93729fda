"""Each kernel of a step's rows against the layers that torch computes, in every precision and for odd sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.model.cuda.rows import qk_norm_rope_store, rms_norm, rotary_tables, silu_and_mul
from engine.model.decoder import _Rotary
from engine.model.layers import QkNormRope
from engine.model.layers import silu_and_mul as torch_silu_and_mul
from tests.engine.model.cuda.compile_kernels import PRECISIONS, compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

BLOCK = 16


@pytest.fixture
def normal(device, dtype):
    """Return a function that makes normal numbers of the precision under test."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)


def close(found, expected):
    """Assert equality in half precision, except where sums in another order round to the neighbour."""
    assert found.dtype == expected.dtype
    if found.dtype != torch.float32:
        assert (found == expected).float().mean() > 0.99
    allowed = max(1e-5, 2 * torch.finfo(found.dtype).eps)
    torch.testing.assert_close(found, expected, rtol=allowed, atol=allowed * float(expected.abs().max()))


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (3, 100), (2, 3584), (5, 1)])
def test_rms_norm_equals_torch(rows, size, normal):
    """Also in place, and for rows that lie apart."""
    x, weight = normal(rows, size + 3)[:, :size], normal(size)
    expected = F.rms_norm(x.float(), (size,), weight.float(), 1e-6).to(x.dtype)
    out = torch.empty_like(x)
    rms_norm(x, weight, 1e-6, out)
    close(out, expected)
    rms_norm(x, weight, 1e-6, x)
    close(x, expected)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(4, 2, 16), (7, 1, 32), (28, 4, 128), (6, 3, 64), (32, 8, 128), (20, 10, 16)]
)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("slots", [torch.int32, torch.int64])
def test_queries_are_rotated_in_place_and_keys_and_values_stored(
    heads, kv_heads, dim, norm, slots, normal, device, dtype
):
    """As the layers normalize and rotate them; nothing else of the cache changes."""
    tokens, eps = 3, 1e-6
    qkv, weights = normal(tokens, (heads + 2 * kv_heads) * dim + 8)[:, :-8], normal(2, dim) + 1
    angles = torch.rand(tokens, dim // 2, device=device) * 6
    layer = normal(4, 2, kv_heads, BLOCK, dim)
    mapping = torch.tensor([35, 16, 63], device=device)
    expected_layer, expected = layer.clone(), qkv.clone().view(tokens, -1, dim)
    weight = torch.cat([weights[0].expand(heads, -1), weights[1].expand(kv_heads, -1)]) if norm else None
    rotated = expected[:, : heads + kv_heads]
    QkNormRope(weight, eps)(rotated, torch.polar(torch.ones_like(angles), angles)[:, None])
    blocks, offsets = mapping // BLOCK, mapping % BLOCK
    expected_layer[blocks, 0, :, offsets] = expected[:, heads : heads + kv_heads]
    expected_layer[blocks, 1, :, offsets] = expected[:, heads + kv_heads :]

    q_weight, k_weight = (weights[0].clone(), weights[1].clone()) if norm else (None, None)
    qk_norm_rope_store(qkv, q_weight, k_weight, eps, angles.cos(), angles.sin(), layer, mapping.to(slots))
    close(qkv[:, : heads * dim], expected[:, :heads].flatten(1))
    close(layer, expected_layer)


def test_padding_tokens_are_stored_in_block_zero(normal, device):
    """Tokens with a negative slot, or one of block 0, change no block of a sequence."""
    qkv, layer = normal(3, 4 * 16), torch.zeros_like(normal(3, 2, 1, BLOCK, 16))
    angles = torch.zeros(3, 8, device=device)
    mapping = torch.tensor([-1, 5, 17], device=device)
    qk_norm_rope_store(qkv, None, None, 0.0, angles.cos(), angles.sin(), layer, mapping)
    written = layer.ne(0).any(dim=-1).nonzero()
    assert {(int(block), int(offset)) for block, _, _, offset in written} == {(0, 0), (0, 5), (1, 1)}


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (3, 100), (2, 3000)])
def test_silu_and_mul_equals_the_layer(rows, size, normal):
    """The activation is rounded before the product, as torch rounds it."""
    x = normal(rows, 2 * size) * 4
    out = torch.empty_like(x[:, :size])
    silu_and_mul(x, out)
    close(out, torch_silu_and_mul(x.clone()))


class Frequencies:
    """A rotary module as transformers builds it."""

    def __init__(self, half, sections=None):
        self.inv_freq = 1.0 / 1e6 ** (torch.arange(half) / half)
        self.attention_scaling = 1.25
        self.mrope_section = sections


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("half", [8, 24, 64])
def test_rotary_tables_equal_the_decoders_rotation(tokens, image, half, device):
    """For positions of text and of images, up to the greatest context."""
    module = Frequencies(half, [half // 4, half // 4, half - 2 * (half // 4)])
    rotary = _Rotary(module, device)
    positions = torch.randint(0, 40960, (3, tokens) if image else (tokens,), device=device)
    expected = rotary(positions)[:, 0]
    cos, sin = rotary_tables(positions, rotary._frequencies, rotary._axes, rotary._scale)
    torch.testing.assert_close(cos, expected.real, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sin, expected.imag, rtol=1e-5, atol=1e-5)
    out = torch.empty(2, tokens, half, device=device)
    rotary_tables(positions, rotary._frequencies, rotary._axes, rotary._scale, (out[0], out[1]))
    assert torch.equal(out, torch.stack((cos, sin)))


def launch_real_shapes(dtype=torch.float16):
    """Launch every kernel with the shapes of both models."""
    tokens, table = 64, torch.zeros(2, 64, 64)
    positions = torch.zeros(3, tokens, dtype=torch.long)
    axes = torch.zeros(64, dtype=torch.long)
    for heads, kv_heads, hidden, ffn, norm in ((32, 8, 4096, 12288, True), (28, 4, 3584, 18944, False)):
        x, weight = torch.zeros(tokens, hidden).to(dtype), torch.zeros(hidden).to(dtype)
        rms_norm(x, weight, 1e-6, x, dependent=True)
        qkv, layer = (
            torch.zeros(tokens, (heads + 2 * kv_heads) * 128).to(dtype),
            torch.zeros(2, 2, kv_heads, 16, 128).to(dtype),
        )
        q_weight = weight[:128] if norm else None
        qk_norm_rope_store(qkv, q_weight, q_weight, 1e-6, table[0], table[1], layer, positions[0], True)
        silu_and_mul(torch.zeros(tokens, 2 * ffn).to(dtype), torch.zeros(tokens, ffn).to(dtype), dependent=True)
    rotary_tables(positions, table[0, 0], axes, 1.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_kernels_compile_for_each_card_without_spilling(precision, tmp_path):
    """For the shapes of both models, with registers for at least 16 warps on a multiprocessor.

    Those that start while the kernel ahead ends touch no memory before they have waited for it.
    """
    found = compiled_by(f"{__name__}:launch_real_shapes:{precision}", tmp_path, PRECISIONS[precision])
    for architecture, kernels in found.items():
        assert len(kernels) == 7
        for kernel in kernels:
            # The range reduction of sines and cosines keeps an array in local memory.
            assert kernel["spilled_bytes"] == 0 or kernel["kernel"] == "_rotary_tables", kernel
            assert kernel["registers"] <= 128, kernel
            waits = architecture >= 90 and kernel["kernel"] != "_rotary_tables"
            assert kernel["early_accesses"] == (0 if waits else None), kernel
