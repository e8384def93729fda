"""Packed and plain linear layers compute the same, and packing is only considered where it can work."""

import pytest
import torch
import torch.nn.functional as F

from engine.linear import PackedLinear, PlainLinear, packing_pays


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("silu", [False, True])
@torch.inference_mode()
def test_packed_and_plain_are_the_linear_layer(rows, bias, silu):
    """With and without bias and SiLU, for one row and many."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 48, generator=generator), torch.randn(32, 48, generator=generator)
    shift = torch.randn(32, generator=generator) if bias else None
    expected = F.linear(x, weight, shift)
    expected = F.silu(expected) if silu else expected
    for kind in (PlainLinear, PackedLinear):
        torch.testing.assert_close(kind(weight, shift, silu)(x.clone()), expected, rtol=1e-4, atol=1e-4)


def test_packing_is_measured_on_the_cpu_in_formats_it_knows():
    """Elsewhere the answer is no without a measurement."""
    assert packing_pays(torch.ones(64, 64)) in (True, False)
    assert not packing_pays(torch.ones(64, 64, dtype=torch.float16))
    assert not packing_pays(torch.ones(64, 64, device="meta"))
