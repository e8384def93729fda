"""Packed weights against torch in double precision, on every level that this processor has."""

import ctypes
import os
import subprocess

import pytest
import torch

from engine.errors import DamagedWeights
from engine.model.kernels.build import FLAGS, HERE, LEVELS, level_of
from engine.model.kernels.library import SIGNATURES, declare
from engine.model.kernels.packed import BITS, FORMATS, GROUP, HALVES, Packing, packed_bytes

pytestmark = pytest.mark.needs("cc")

# Lower levels run on any processor of a higher one.
HERE_TOO = list(LEVELS)[list(LEVELS).index(level_of() or "x86-64-v3") :]
SHAPES = [(64, 128), (96, 32), (50, 40), (1, 1), (130, 300), (33, 65)]
ROWS = [1, 2, 5, 6, 7, 13, 25]


@pytest.fixture(scope="module", params=HERE_TOO)
def library(request, tmp_path_factory):
    """The functions of packed weights, compiled for one level; `make sanitize` adds CFLAGS."""
    file = tmp_path_factory.mktemp("kernels") / "packed.so"
    sources = [str(HERE / name) for name in ("half.c", "quantized.c")]
    flags = [*FLAGS, *LEVELS[request.param][1], *os.environ.get("CFLAGS", "").split()]
    subprocess.run(["cc", *flags, *sources, "-o", str(file)], check=True, timeout=600)
    found = ctypes.CDLL(str(file))
    declare(found, [name for name in SIGNATURES if name.startswith(("half", "quantize"))])
    return found


def made(shape, seed=0):
    """Random values of this shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(x):
    """The activations as the kernels see them: by row and group of 32, to 8 bits."""
    rows, inner = x.shape
    groups = torch.nn.functional.pad(x.double(), (0, -inner % GROUP)).view(rows, -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale > 0, (groups / scale).round(), 0.0)
    return (whole * scale).view(rows, -1)[:, :inner]


def rounded(x, library, name):
    """The activations as the GEMMs of a format see them."""
    if name in BITS:
        return quantized(x)
    return (x.bfloat16() if name == "bfloat16" and library.half_multiplies() else x).double()


def weight_of(name, shape, seed=0):
    """A random weight in the dtype that its format is packed from."""
    return made(shape, seed).to(getattr(torch, name) if name in HALVES else torch.float32)


def all_rows(packed, out):
    """The whole weight, as the kernels read it."""
    return packed.rows(torch.arange(out)).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_gemm_is_the_linear_layer(name, shape, library):
    """For any number of rows, whole and partial panels and groups, with a bias and added to what is there."""
    out, inner = shape
    packing = Packing(library, name)
    bias = made((out,), 1)
    with_bias, without = packing(weight_of(name, shape), bias), packing(weight_of(name, shape))
    for rows in ROWS:
        x, before = made((rows, inner), rows), made((rows, out), 2)
        expected = rounded(x, library, name) @ all_rows(without, out).T
        torch.testing.assert_close(without(x).double(), expected, rtol=1e-4, atol=1e-3)
        total = expected + bias.double() + before.double()
        torch.testing.assert_close(with_bias(x, before).double(), total, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", BITS)
def test_sums_of_the_largest_products_fit(name, library):
    """Weights and activations at the ends of their ranges, with signs that differ by input, pair or half."""
    n = torch.arange(GROUP)
    signs = torch.stack([1.0 - 2 * (n // size % 2) for size in (1, 2, 3, 4, 16, GROUP)])
    signs = torch.cat([signs, -signs])
    packed = Packing(library, name)(torch.where(signs > 0, 7.0, -8.0))
    expected = quantized(signs) @ all_rows(packed, len(signs)).T
    torch.testing.assert_close(packed(signs).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", HALVES)
def test_weights_of_16_bits_are_kept_exactly(name, shape, library):
    """Their rows are read as they were, of any numbers and in any order."""
    weight = weight_of(name, shape)
    ids = torch.tensor([shape[0] - 1, 0, shape[0] // 2, 0])
    assert torch.equal(Packing(library, name)(weight).rows(ids), weight[ids].float())


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e-3, 6e4 * 127, 1e30])
@pytest.mark.parametrize("name", BITS)
def test_weights_of_any_size_lose_as_little(name, size, library):
    """Beyond what float16 holds and below: a scale in it would overflow, or be zero. In rows side by side."""
    weight = made((40, 128))
    plain = all_rows(Packing(library, name)(weight), 40)
    lost = (plain - weight.double()).norm()
    mixed = weight.double() * torch.where(torch.arange(40) % 2 == 0, size, 1.0)[:, None].double()
    found = all_rows(Packing(library, name)(mixed.float()), 40)
    for rows in (slice(0, 40, 2), slice(1, 40, 2)):
        own = size if rows.start == 0 else 1.0
        assert ((found - mixed)[rows] / own).norm() < 1.02 * lost


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_8_bits_are_within_half_a_level(shape, dtype, library):
    """Of 255 levels between the largest value of a group and its negative, whatever the stored dtype."""
    weight = made(shape).to(dtype)
    found = all_rows(Packing(library, "int8")(weight), shape[0])
    largest = _by_group(weight.double()).abs().amax(-1, keepdim=True)
    error = (_by_group(found) - _by_group(weight.double())).abs()
    assert (error <= largest / 127 * (0.5 + 1e-5) * (1 + 2**-8)).all()


@pytest.mark.parametrize("shape", [(64, 128), (130, 320)])
def test_weights_of_4_bits_lose_less_than_a_plain_rounding(shape, library):
    """Than with the scale that the largest value of a group alone would give it."""
    weight = made(shape).double()
    groups = _by_group(weight)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    plain = (groups / scale).round().clamp(-8, 7) * scale
    found = _by_group(all_rows(Packing(library, "int4")(weight.float()), shape[0]))
    assert (found - groups).square().sum() < (plain - groups).square().sum() * 0.95


def _by_group(weight):
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_does_not_depend_on_the_batch(name, library):
    """The same sum in the same order, bit for bit, alone and in any batch."""
    x, packed = made((40, 1100)), Packing(library, name)(weight_of(name, (70, 1100)))
    alone = torch.cat([packed(row[None]) for row in x])
    assert all(torch.equal(packed(x[:rows]), alone[:rows]) for rows in (2, 7, 26, 40))


@pytest.mark.parametrize("name", FORMATS)
def test_the_number_of_threads_changes_nothing(name, library):
    """Packed and multiplied by one thread or by two."""
    x, weight = made((9, 300)), weight_of(name, (130, 300))
    results, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(Packing(library, name)(weight)(x))
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_finite_number_shows(name, value, library):
    """In an activation it reaches every output of its row and of no other; in a weight, every row of its column.

    A weight that is to be quantized is refused.
    """
    weight, x = weight_of(name, (40, 96)), made((3, 96))
    packing = Packing(library, name)
    x[1, 50] = value
    finite = torch.isfinite(packing(weight)(x))
    assert finite[[0, 2]].all()
    assert not finite[1].any()
    weight[7, 33] = value
    if name in BITS:
        with pytest.raises(DamagedWeights):
            packing(weight)
        return
    finite = torch.isfinite(packing(weight)(made((3, 96))))
    assert not finite[:, 7].any()
    assert finite.sum() == 3 * 39


@pytest.mark.parametrize("name", BITS)
def test_outliers_cost_their_own_group_only(name, library):
    """A huge weight or activation leaves the precision of every other group as it is."""
    weight, x = made((32, 128)), made((2, 128))
    plain = all_rows(Packing(library, name)(weight), 32)
    weight[3, 5] = x[0, 70] = 1e4
    packed = Packing(library, name)(weight)
    found = all_rows(packed, 32)
    assert torch.equal(_by_group(found)[:, 1:], _by_group(plain)[:, 1:])
    assert torch.isfinite(packed(x)).all()


@pytest.mark.parametrize("size", [0.0, 1e-40])
@pytest.mark.parametrize("name", BITS)
def test_zeros_stay_zeros(name, size, library):
    """In weights and in activations; so do values that have no reciprocal."""
    weight, x = made((40, 96)), made((3, 96))
    weight[:, ::2] = x[:, ::2] = 0.0
    assert not Packing(library, name)(weight * size)(x).any()
    assert not Packing(library, name)(weight)(x * size).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_stated_size_is_an_upper_bound(name, shape, library):
    """Of what the kernels take; and close to it for weights of many columns."""
    words = library.half_words(*shape) * 2 if name in HALVES else library.quantized_bytes(*shape, BITS[name])
    assert words <= packed_bytes(name, *shape)
    assert packed_bytes("int8", 4096, 4096) == 4096 * 4096 * 34 // 32


@pytest.mark.parametrize("name", FORMATS)
def test_rows_do_not_depend_on_the_default_dtype(name, library):
    """Which another model that loads has changed meanwhile; half of the room would not hold them."""
    packed = Packing(library, name)(weight_of(name, (50, 64)))
    expected = all_rows(packed, 50)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(all_rows(packed, 50), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_packed_weight_outlives_its_packing(library):
    """The memory of a model's weights lives as long as one of them."""
    first, second = (Packing(library, "int8")(made((64, 64), seed)) for seed in (0, 1))
    expected = all_rows(first, 64)
    del second
    filler = [made((64, 64)) for _ in range(100)]
    assert torch.equal(all_rows(first, 64), expected)
    assert len(filler) == 100
