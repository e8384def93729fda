"""Linear layers in FP8 against torch with what weights and tokens are rounded to."""

from __future__ import annotations

import pytest
import torch

from engine.errors import DamagedWeights
from engine.loading.quantization import FP8_CAPABILITY
from engine.model.cuda.fp8 import FORMAT, LARGEST, Fp8, fp8_linear, quantize_fp8
from tests.engine.model.cuda.compile_kernels import compiled_by

CPU = torch.device("cpu")


def made(*shape):
    """Random values of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fp8_device(device):
    """The device that the kernels run on, if it multiplies FP8."""
    if device.type == "cuda" and torch.cuda.get_device_capability() < FP8_CAPABILITY:
        pytest.skip("This card multiplies no FP8, and the service refuses it there.")
    return device


def rounded(x):
    """Tokens as GEMMs see them, in float64: by a scale of their own, to FP8."""
    scale = x.float().abs().amax(1, keepdim=True) / LARGEST
    return torch.where(scale > 0, (x.float() / scale).to(FORMAT).double() * scale, 0.0)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 6e4 * 127, 1e30])
def test_weights_of_any_size_lose_as_little(size):
    """Three bits of a weight are kept, whatever the scale of its output; zeros stay zeros."""
    weight = made(32, 64)
    weight[1] = 0
    found = quantize_fp8([weight[:8] * size, weight[8:] * size], CPU).dequantized() / size
    assert ((found - weight).abs() <= weight.abs() / 16 + weight.abs().amax(1, keepdim=True) / LARGEST / 256).all()
    with pytest.raises(DamagedWeights):
        quantize_fp8([weight, weight * torch.inf], CPU)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("add", [False, True])
def test_gemms_equal_torch(tokens, add, dtype, fp8_device):
    """Within the rounding of sums to bfloat16, with a bias or onto the residual; inputs may lie apart."""
    x, weight = made(tokens, 1056 + 16).to(fp8_device, dtype)[:, :1056], quantize_fp8([made(48, 1056)], fp8_device)
    x[0] *= 10
    bias, out = made(48).to(fp8_device, dtype), made(tokens, 48).to(fp8_device, dtype)
    expected = rounded(x) @ weight.dequantized().double().T + (out.double() if add else bias.double())
    fp8_linear(x, weight, out, None if add else bias, add)
    size = expected.abs().amax(1, keepdim=True)
    assert ((out.double() - expected).abs() <= size * 2**-8 * 1.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_no_finite_number_shows_in_its_token_only(value, fp8_device):
    """No other token of the step shares its scale."""
    x, weight = made(3, 64).to(fp8_device), quantize_fp8([made(16, 64)], fp8_device)
    x[0], x[1, 5] = 0, value
    out = torch.empty(3, 16, device=fp8_device)
    fp8_linear(x, weight, out)
    assert out.isfinite().all(1).tolist() == [True, False, True]
    assert out[0].eq(0).all()


def launch():
    """Launch the kernels around a GEMM of the 8B."""
    weight = Fp8.empty(4096, 12_288, CPU)
    fp8_linear(torch.zeros(1, 12_288).half(), weight, torch.zeros(1, 4096).half(), add=True, dependent=True)


@pytest.mark.slow
def test_the_kernels_compile_for_the_cards_that_multiply_fp8(tmp_path):
    """Without spilling; nothing is read before the wait."""
    for kernels in compiled_by(f"{__name__}:launch", tmp_path, [89, 90]).values():
        assert [kernel["kernel"] for kernel in kernels] == ["_quantize_tokens", "_scale_products"]
        assert all(kernel["spilled_bytes"] == 0 and kernel["early_accesses"] in (None, 0) for kernel in kernels)
