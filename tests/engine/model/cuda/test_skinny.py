"""GEMMs of few tokens against torch, in every precision, for odd sizes and for every way to split them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.model.cuda import skinny
from engine.model.cuda.skinny import Scratch, skinny_add, skinny_linear
from tests.engine.model.cuda.compile_kernels import PRECISIONS, compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

EPS = 1e-6


@pytest.fixture
def normal(device, dtype):
    """Return a function that makes normal numbers of the precision under test."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device, dtype)


@pytest.fixture
def scratch(device):
    """Room for the partials of every GEMM here."""
    return Scratch.empty(256, device)


def tiles(block_n, block_k, split=1, overlap="off"):
    """Return the tiles of a GEMM."""
    return {"BLOCK_N": block_n, "BLOCK_K": block_k, "SPLIT": split, "STAGES": 2, "OVERLAP": overlap, "num_warps": 4}


def close(found, exact, terms=1):
    """Assert that sums in float32, of `terms` roundings each, were rounded to the precision found."""
    allowed = terms * max(2e-6, torch.finfo(found.dtype).eps)
    torch.testing.assert_close(found.double(), exact, rtol=allowed, atol=allowed * float(exact.abs().max()))


SHAPES = [(32, 128, 16, 64), (40, 100, 16, 32), (7, 33, 16, 32), (64, 64, 32, 64)]


@pytest.mark.parametrize("tokens", [1, 2, 5, 16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", ["off", "tile"])
def test_gemms_equal_torch(tokens, shape, overlap, normal):
    """Rounded once, the bias included; nothing is written beside the GEMM, and inputs may lie apart."""
    n, k, block_n, block_k = shape
    x, weight = normal(tokens, k + 16)[:, :k], normal(n, k)
    bias = normal(n)
    out = torch.full((tokens + 1, n + 16), 7.0, dtype=x.dtype, device=x.device)
    skinny_linear(x, weight, bias, None, 0.0, out[:tokens, :n], meta=tiles(block_n, block_k, 1, overlap))
    close(out[:tokens, :n], F.linear(x.double(), weight.double(), bias.double()))
    assert out[tokens:].eq(7).all()
    assert out[:, n:].eq(7).all()


@pytest.mark.parametrize("tokens", [1, 3])
def test_gemms_of_halves_can_be_written_as_float32(tokens, normal):
    """As logits are: not rounded at all."""
    x, weight = normal(tokens, 64), normal(32, 64)
    out = torch.empty(tokens, 32, device=x.device)
    skinny_linear(x, weight, None, None, 0.0, out, meta=tiles(16, 32))
    close(out, F.linear(x.double(), weight.double()))


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scale", "overlap"), [(0.02, "off"), (1.0, "tile"), (1000.0, "off")])
def test_the_norm_of_tokens_is_part_of_the_gemm(tokens, shape, scale, overlap, normal):
    """Within a few roundings of the norm computed exactly, for small and for great tokens."""
    n, k, block_n, block_k = shape
    x, weight, norm_weight = normal(tokens, k) * scale, normal(n, k), normal(k) * 4
    out = torch.empty(tokens, n, dtype=x.dtype, device=x.device)
    skinny_linear(x, weight, None, norm_weight, EPS, out, meta=tiles(block_n, block_k, 1, overlap))
    exact = F.linear(F.rms_norm(x.double(), (k,), norm_weight.double(), EPS), weight.double())
    close(out, exact, terms=4)


@pytest.mark.parametrize("tokens", [1, 2, 16])
@pytest.mark.parametrize(("n", "k", "split"), [(32, 128, 1), (32, 128, 4), (40, 100, 2), (7, 160, 4), (32, 160, 3)])
def test_gemms_are_added_to_the_residual(tokens, n, k, split, normal, scratch, grid_order):
    """By however many parts; the counters are left at zero, and the same inputs give the same bits."""
    x, weight, residual = normal(tokens, k), normal(n, k), normal(tokens, n)
    exact = residual.double() + F.linear(x.double(), weight.double())
    again = residual.clone()
    skinny_add(x, weight, residual, scratch, tiles(16, 32, split, "tile"))
    skinny_add(x, weight, again, scratch, tiles(16, 32, split, "tile"))
    close(residual, exact)
    assert torch.equal(residual, again)
    assert scratch.counters.eq(0).all()


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(("k", "split"), [(64, 1), (100, 2)])
def test_the_activation_is_part_of_the_gemm(tokens, k, split, normal, scratch):
    """silu(x[:, :k]) * x[:, k:], with the roundings of the separate kernel."""
    both, weight, residual = normal(tokens, 2 * k), normal(32, k), normal(tokens, 32)
    active = F.silu(both[:, :k]) * both[:, k:]
    exact = residual.double() + F.linear(active.double(), weight.double())
    skinny_add(both, weight, residual, scratch, tiles(16, 32, split))
    close(residual, exact, terms=2)


def test_a_gemm_with_a_norm_is_not_split(device, scratch):
    """Each part would know the squares of its own columns only; and parts need scratch."""
    x, weight, out = torch.zeros(1, 64, device=device), torch.zeros(16, 64, device=device), torch.zeros(1, 16)
    with pytest.raises(ValueError, match="cannot be split"):
        skinny_linear(x, weight, None, x[0], EPS, out, scratch, tiles(16, 32, 2))
    with pytest.raises(ValueError, match="cannot be split"):
        skinny_linear(x, weight, None, None, EPS, out, None, tiles(16, 32, 2))
    with pytest.raises(ValueError, match="do not fit the scratch"):
        skinny_linear(x, weight, None, None, EPS, out, Scratch.empty(8, device, 1, 2), tiles(16, 32, 2))


def test_real_shapes_have_tiles():
    """They fit the limits of the scratch."""
    for tokens in (1, 2, 4, 8, 16):
        for n, k in ((6144, 4096), (4096, 12_288), (3584, 18_944), (152_064, 3584)):
            assert skinny.default_meta(tokens, n, k)["SPLIT"] <= skinny.MOST_PARTS


def launch_real_shapes(dtype=torch.float16):
    """Launch the GEMMs of both models for each number of tokens, alone and with what is fused into them."""
    scratch, prefetching = Scratch.empty(4096, torch.device("cpu")), tiles(64, 128, 1, "prefetch")
    for tokens in (1, 16):
        for n, k in ((4608, 3584), (4096, 12_288)):
            x, weight, norm = (
                torch.zeros(tokens, 2 * k).to(dtype),
                torch.zeros(n, k).to(dtype),
                torch.zeros(k).to(dtype),
            )
            out = torch.zeros(tokens, n).to(dtype)
            if n > 4096:
                skinny_linear(x[:, :k], weight, out[0], None, EPS, out)
                skinny_linear(x[:, :k], weight, None, norm, EPS, out)
                skinny_linear(x[:, :k], weight, None, norm, EPS, out, meta=prefetching)
            else:
                skinny_add(x[:, :k], weight, out, scratch)
                skinny_add(x, weight, out, scratch)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_kernels_compile_for_each_card_without_spilling(precision, tmp_path):
    """With registers and shared memory for two programs on a multiprocessor of an A100 or H100."""
    shared = {80: 82, 89: 99, 90: 113}  # KiB of a program
    for architecture, kernels in compiled_by(
        f"{__name__}:launch_real_shapes:{precision}", tmp_path, PRECISIONS[precision]
    ).items():
        assert len(kernels) == 10
        for kernel in kernels:
            assert kernel["spilled_bytes"] <= 16, kernel
            assert kernel["registers"] <= 168, kernel
            assert kernel["shared_bytes"] <= shared[architecture] * 1024, kernel
