"""Every layout computes the same linear layer, and measured times select one."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from engine.model.linear import (
    KEEP_BOTH_BYTES,
    MKL_ROWS,
    PROBED_ROWS,
    Layout,
    Linear,
    choose_layout,
    is_correct,
    packings,
    plain,
    select,
)

EVEN = dict.fromkeys(PROBED_ROWS, 1.0)
SLOWER = dict.fromkeys(PROBED_ROWS, 2.0)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, MKL_ROWS, MKL_ROWS + 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("few_rows", [0, 2])
@pytest.mark.parametrize("packing", ["plain", "onednn", "mkl", "kernels"])
@torch.inference_mode()
@pytest.mark.needs("cc")
def test_every_layout_is_the_linear_layer(packing, few_rows, bias, rows, add, kernels):
    """With one copy or two, with and without bias, at any number of rows, alone or added to a tensor."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 48, generator=generator), torch.randn(32, 48, generator=generator)
    shift = torch.randn(32, generator=generator) if bias else None
    pack = plain if packing == "plain" else packings(weight, kernels)[packing]
    before = torch.randn(rows, 32, generator=generator)
    expected = F.linear(x, weight, shift) + before if add else F.linear(x, weight, shift)
    y = Linear(weight, shift, Layout(pack, plain, few_rows))(x, before if add else None)
    assert not add or y is before
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


HALF = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # not on a processor with AVX2 alone


@pytest.mark.parametrize(
    ("dtype", "names"),
    [(torch.float32, {"onednn", "mkl", "kernels"}), (torch.bfloat16, {"onednn"} if HALF else set())],
)
@pytest.mark.needs("cc")
def test_each_dtype_has_its_packings(dtype, names, kernels):
    """The layout selected on this machine is correct for both dtypes."""
    weight = torch.ones(64, 48, dtype=dtype)
    assert set(packings(weight, kernels)) == names
    layout = choose_layout([weight, weight], 1, kernels)
    x = torch.randn(3, 48).to(dtype)
    torch.testing.assert_close(Linear(weight, None, layout)(x), F.linear(x, weight), rtol=1e-2, atol=1e-2)


def test_a_processor_without_gemms_of_bfloat16_computes_without_a_packing(monkeypatch):
    """oneDNN would end the start there."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    weight = torch.ones(64, 48, dtype=torch.bfloat16)
    assert choose_layout([weight], 1) == Layout()
    assert "onednn" in packings(weight.float(), None)


@pytest.mark.needs("cc")
def test_other_dtypes_and_devices_stay_plain(kernels):
    """Without a packing nothing is measured."""
    assert choose_layout([torch.ones(64, 64, dtype=torch.float16)], 1, kernels) == Layout()
    assert choose_layout([torch.ones(64, 64, device="meta")], 1, kernels) == Layout()


def test_a_gemm_that_is_wrong_for_some_number_of_rows_is_rejected():
    """A packing is checked before it is measured, below and above the rows it is packed for; NaN is wrong too."""
    weight = torch.randn(8, 16)
    assert is_correct(lambda x: F.linear(x, weight), weight)
    assert not is_correct(lambda x: F.linear(x, weight) * (1.0 if len(x) <= MKL_ROWS else 1.001), weight)
    assert not is_correct(lambda x: F.linear(x, weight) * float("nan"), weight)


@pytest.mark.parametrize(
    ("seconds", "size", "expected"),
    [
        ({"plain": EVEN}, 1, ("plain", "plain", 0)),
        ({"plain": EVEN, "mkl": SLOWER}, 1, ("plain", "plain", 0)),
        ({"plain": SLOWER, "mkl": EVEN}, 1, ("mkl", "mkl", 0)),
        ({"mkl": EVEN | {1: 1.5}, "kernels": EVEN | {256: 1.02}}, 1, ("kernels", "kernels", 0)),
        ({"mkl": EVEN | {1: 1.5}, "kernels": EVEN | {256: 1.1}}, 1, ("mkl", "kernels", 1)),
        ({"plain": SLOWER, "mkl": SLOWER | {256: 0.9}, "kernels": EVEN}, 1, ("mkl", "kernels", 64)),
        ({"mkl": SLOWER | {1: 0.99, 256: 0.9}, "kernels": EVEN}, 1, ("mkl", "kernels", 64)),
        ({"plain": SLOWER | {1: 0.5}, "mkl": EVEN}, 1, ("mkl", "plain", 1)),
        ({"plain": SLOWER | {4: 0.9}, "mkl": EVEN}, 1, ("mkl", "mkl", 0)),
        ({"mkl": SLOWER | {256: 0.9}, "kernels": EVEN}, KEEP_BOTH_BYTES + 1, ("kernels", "kernels", 0)),
    ],
)
def test_the_fastest_layout_is_selected(seconds, size, expected):
    """One layout unless a second one is clearly faster at few rows; two only for small models."""
    assert select(seconds, size) == expected


EVERY_NUMBER_OF_ROWS = """
import psutil, torch
from engine.model.linear import packings
pack = packings(torch.ones(1, 1), None)["onednn"]
gemms = [pack(torch.ones(64, width), None) for width in (64, 128, 192)]
before = psutil.Process().memory_info().rss
for rows in range(1, 513):
    for gemm, width in zip(gemms, (64, 128, 192)):
        gemm(torch.ones(rows, width))
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def test_gemms_of_many_numbers_of_rows_stay_within_bounds():
    """What oneDNN compiles for each is not kept for all of them: 0.2 GB rather than 0.6."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_NUMBER_OF_ROWS], capture_output=True, text=True, check=True, timeout=600
    )
    assert int(done.stdout) < 400
