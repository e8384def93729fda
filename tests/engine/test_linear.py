"""Every layout computes the same linear layer, and a measurement decides which one is taken."""

import pytest
import torch
import torch.nn.functional as F

from engine.linear import KEEP_BOTH_BYTES, Layout, Linear, choose_layout, judge

EVEN = dict.fromkeys((1, 2, 4, 8, 32), 1.0)
SLOWER = dict.fromkeys(EVEN, 2.0)


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("plain_rows", [None, 0, 2])
@torch.inference_mode()
def test_every_layout_is_the_linear_layer(rows, bias, plain_rows):
    """Plain, packed and both, with and without bias, below and above the limit between them."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 48, generator=generator), torch.randn(32, 48, generator=generator)
    shift = torch.randn(32, generator=generator) if bias else None
    y = Linear(weight, shift, Layout(plain_rows))(x)
    torch.testing.assert_close(y, F.linear(x, weight, shift), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layout_is_measured_for_what_packing_knows(dtype):
    """The choice on this machine is one of the three there are, in both formats."""
    assert choose_layout([torch.ones(64, 48, dtype=dtype)], 1).plain_rows in (None, 0, 1, 2, 4)


def test_other_formats_and_devices_stay_plain():
    """What oneDNN does not pack is not measured."""
    assert not choose_layout([torch.ones(64, 64, dtype=torch.float16)], 1).packs
    assert not choose_layout([torch.ones(64, 64, device="meta")], 1).packs


@pytest.mark.parametrize(
    ("plain", "packed", "size", "expected"),
    [
        (EVEN, SLOWER, 1, None),
        (EVEN, EVEN, 1, None),
        (SLOWER, EVEN, 1, 0),
        (SLOWER | {32: 0.9}, EVEN, 1, 0),
        (SLOWER | {1: 0.5}, EVEN, 1, 1),
        (SLOWER | {1: 0.5, 2: 0.8}, EVEN, 1, 2),
        (SLOWER | {2: 0.5}, EVEN, 1, 0),
        (SLOWER | {1: 0.95}, EVEN, 1, 0),
        (SLOWER | {1: 0.5}, EVEN, KEEP_BOTH_BYTES + 1, 0),
    ],
)
def test_the_fastest_layout_is_taken(plain, packed, size, expected):
    """Packed only where it wins for many rows; plain beside it only for few rows, clearly, and in small models."""
    assert judge(plain, packed, size).plain_rows == expected
