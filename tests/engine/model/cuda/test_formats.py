"""Weights of 8 and 4 bits for a card: within half a level, whatever their size; what is no number is refused."""

from __future__ import annotations

import pytest
import torch

from engine.errors import DamagedWeights
from engine.model.cuda.formats import BITS, GROUPS, quantize, quantized_bytes

CPU = torch.device("cpu")
# Beyond what float16 holds, and below: a scale in it would overflow, or be zero.
SIZES = (1e-30, 1e-8, 1e-3, 1.0, 6e4 * 127, 1e30)


def made(*shape):
    """Random values of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def by_group(weight, name):
    """Return the groups of a weight, in float64."""
    group = GROUPS[BITS[name]]
    return torch.nn.functional.pad(weight.double(), (0, -weight.shape[1] % group)).unflatten(1, (-1, group))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("inner", [1, 100, 128, 300])
def test_eight_bits_are_within_half_a_level(inner, size):
    """Of 254 levels between the largest value of a group and its negative, which a rounded scale widens by 1/256."""
    weight = made(9, inner) * size
    error = (by_group(quantize([weight], "int8", CPU).dequantized(), "int8") - by_group(weight, "int8")).abs()
    largest = by_group(weight, "int8").abs().amax(-1, keepdim=True)
    assert (error <= largest / 127 * (0.5 + 1e-5) * (1 + 2**-8)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("inner", [1, 40, 320])
def test_four_bits_lose_less_than_a_plain_rounding(inner, size):
    """Than with the scale that the largest value of a group alone would give it."""
    weight = made(70, inner) * size
    groups, found = by_group(weight, "int4"), by_group(quantize([weight], "int4", CPU).dequantized(), "int4")
    scale = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    plain = torch.where(scale == 0, 0.0, (groups / scale).round().clamp(-8, 7) * scale)
    lost, bound = (found - groups).square().sum(), (plain - groups).square().sum()
    assert lost <= bound * (0.95 if inner > 1 else 1) + groups.square().sum() * 2**-16


@pytest.mark.parametrize("name", BITS)
def test_groups_of_different_sizes_do_not_disturb_each_other(name):
    """Zeros stay zeros, and an outlier costs its own group alone."""
    weight = made(4, 4 * 128) * 1e-2
    weight[0] = 0
    weight[1, 5] = 1e6
    found = quantize([weight], name, CPU).dequantized()
    assert found[0].eq(0).all()
    assert found[1, 5] == pytest.approx(1e6, rel=1e-2)
    rest = slice(GROUPS[BITS[name]], None)
    assert (found[1, rest] - weight[1, rest]).norm() < 0.1 * weight[1, rest].norm()


@pytest.mark.parametrize("name", BITS)
def test_values_that_have_no_reciprocal_are_zeros(name):
    """As good as."""
    assert quantize([made(4, 256) * 1e-40], name, CPU).dequantized().eq(0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", BITS)
def test_what_is_no_finite_number_is_refused(name, value):
    """Wherever it stands."""
    weight = made(40, 96)
    weight[39, 95] = value
    with pytest.raises(DamagedWeights):
        quantize([made(3, 96), weight], name, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BITS)
def test_parts_are_quantized_as_alone_and_one_below_the_other(name, dtype, monkeypatch):
    """In chunks of any size; what they take is known before."""
    parts = [made(5, 200).to(dtype), made(12, 200).to(dtype)]
    whole = quantize(parts, name, CPU)
    monkeypatch.setattr("engine.model.cuda.formats.CHUNK_VALUES", 600)
    again = quantize(parts, name, CPU)
    assert whole.shape == (17, 200)
    assert torch.equal(whole.dequantized(), again.dequantized())
    assert torch.equal(whole.dequantized()[5:], quantize(parts[1:], name, CPU).dequantized())
    assert whole.nbytes == quantized_bytes(name, 17, 200)
