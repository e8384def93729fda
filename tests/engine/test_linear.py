"""Every layout computes the same linear layer, and a measurement decides which one is taken."""

import pytest
import torch
import torch.nn.functional as F

from engine.linear import KEEP_BOTH_BYTES, MKL_ROWS, Layout, Linear, agrees, choose_layout, judge

EVEN = dict.fromkeys((1, 2, 4, 8, 32), 1.0)
SLOWER = dict.fromkeys(EVEN, 2.0)
LAYOUTS = [Layout(), Layout("onednn"), Layout("onednn", 2), Layout("mkl"), Layout("mkl", 2)]


@pytest.mark.parametrize("rows", [1, 2, 3, 64, MKL_ROWS, MKL_ROWS + 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_every_layout_is_the_linear_layer(rows, bias, layout):
    """Plain, packed and both, with and without bias, below and above the limits between them."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 48, generator=generator), torch.randn(32, 48, generator=generator)
    shift = torch.randn(32, generator=generator) if bias else None
    y = Linear(weight, shift, layout)(x)
    torch.testing.assert_close(y, F.linear(x, weight, shift), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layout_is_measured_for_what_packing_knows(dtype):
    """The choice on this machine is one of those there are, in both formats."""
    layout = choose_layout([torch.ones(64, 48, dtype=dtype)], 1)
    assert layout.plain_rows in (0, 1, 2, 4)
    assert layout.packing in ((None, "onednn", "mkl") if dtype == torch.float32 else (None, "onednn"))


def test_other_formats_and_devices_stay_plain():
    """What no library packs is not measured."""
    assert choose_layout([torch.ones(64, 64, dtype=torch.float16)], 1) == Layout()
    assert choose_layout([torch.ones(64, 64, device="meta")], 1) == Layout()


def test_a_product_that_is_wrong_for_some_number_of_rows_is_not_taken():
    """A packing is checked before it is measured, on either side of the rows it is laid out for; NaN is wrong too."""
    weight = torch.randn(8, 16)
    assert agrees(lambda x: F.linear(x, weight), weight)
    assert not agrees(lambda x: F.linear(x, weight) * (1.0 if len(x) <= MKL_ROWS else 1.001), weight)
    assert not agrees(lambda x: F.linear(x, weight) * float("nan"), weight)


@pytest.mark.parametrize(
    ("plain", "packed", "size", "expected"),
    [
        (EVEN, {}, 1, Layout()),
        (EVEN, {"onednn": SLOWER}, 1, Layout()),
        (EVEN, {"onednn": EVEN}, 1, Layout()),
        (SLOWER, {"onednn": EVEN}, 1, Layout("onednn")),
        (SLOWER, {"onednn": SLOWER, "mkl": EVEN}, 1, Layout("mkl")),
        (SLOWER, {"onednn": EVEN, "mkl": SLOWER}, 1, Layout("onednn")),
        (SLOWER | {32: 0.9}, {"onednn": EVEN}, 1, Layout("onednn")),
        (SLOWER | {1: 0.5}, {"mkl": EVEN}, 1, Layout("mkl", 1)),
        (SLOWER | {1: 0.5, 2: 0.8}, {"onednn": EVEN}, 1, Layout("onednn", 2)),
        (SLOWER | {2: 0.5}, {"onednn": EVEN}, 1, Layout("onednn")),
        (SLOWER | {1: 0.95}, {"onednn": EVEN}, 1, Layout("onednn")),
        (SLOWER | {1: 0.5}, {"onednn": EVEN}, KEEP_BOTH_BYTES + 1, Layout("onednn")),
    ],
)
def test_the_fastest_layout_is_taken(plain, packed, size, expected):
    """Packed only where it wins for many rows; plain beside it only for few rows, clearly, and in small models."""
    assert judge(plain, packed, size) == expected
