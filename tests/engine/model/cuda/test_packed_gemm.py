"""GEMMs with weights of 8 and 4 bits against torch with the weights that these stand for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from engine.model.cuda.formats import BITS, MOST_SPLIT, quantize
from engine.model.cuda.packed_gemm import MOST_WIDE_TOKENS, TOKEN_BLOCKS, default_meta, packed_linear, packed_scratch
from engine.model.cuda.skinny import Scratch
from tests.engine.model.cuda.compile_kernels import ALL_PRECISIONS, compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

TINY = {"BLOCK_N": 16, "SPLIT": 1, "STAGES": 2, "num_warps": 4}


@pytest.fixture
def normal(device):
    """Return a function that makes normal numbers in float32."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device)


def tiles(name, tokens, split=1):
    """Return small tiles for a GEMM."""
    block = next(size for size in TOKEN_BLOCKS if size >= min(tokens, 16))
    return {**TINY, "TOKENS": block, "SPLIT": split, "BLOCK_K": 256 if tokens == 1 else 128 if name == "int8" else 32}


def check(found, x, weight, name, bias=None, before=0.0):
    """Assert that the GEMM is exact but for the roundings that the kernel states."""
    exact = F.linear(x.double(), weight.dequantized().double(), bias) + before
    # Of the result; and where tensor cores multiply weights of 4 bits, of each of these.
    eps = max(torch.finfo(found.dtype).eps, torch.finfo(x.dtype).eps if name == "int4" else 0.0, 2e-6)
    torch.testing.assert_close(found.double(), exact, rtol=eps, atol=eps * float(exact.abs().max()))


@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize(("n", "k"), [(24, 256), (7, 45)])
@pytest.mark.parametrize("name", BITS)
def test_gemms_equal_torch(name, n, k, tokens, normal, dtype, device):
    """Rounded once, the bias included; nothing is written beside the GEMM, and inputs may lie apart."""
    x, weight, bias = normal(tokens, k + 16).to(dtype)[:, :k], quantize([normal(n, k)], name, device), normal(n)
    out = torch.full((tokens + 1, n + 16), 7.0, dtype=dtype, device=device)
    packed_linear(x, weight, out[:tokens, :n], bias.to(dtype), meta=tiles(name, tokens))
    check(out[:tokens, :n], x, weight, name, bias.to(dtype).double())
    assert out[tokens:].eq(7).all()
    assert out[:, n:].eq(7).all()


def check_added(x, weight, before, name):
    """Check a product that three programs share and add to `before`, twice."""
    scratch, found, again = packed_scratch(x.device), before.clone(), before.clone()
    for out in (found, again):
        packed_linear(x, weight, out, scratch=scratch, meta=tiles(name, len(x), 3), add=True)
    check(found, x, weight, name, before=before.double())
    assert torch.equal(found, again)
    assert scratch.counters.eq(0).all()


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", BITS)
def test_gemms_are_added_to_the_residual_by_several_programs(name, tokens, normal, device):
    """The counters are left at zero, and the same inputs give the same bits."""
    check_added(normal(tokens, 600).half(), quantize([normal(20, 600)], name, device), normal(tokens, 20).half(), name)


@pytest.mark.parametrize("tokens", [17, 33, 40])
@pytest.mark.parametrize("name", BITS)
def test_each_tile_of_a_result_has_parts_of_its_own(name, tokens, normal, dtype, device, grid_order):
    """However many blocks of tokens there are: each adds its own parts, whichever program is the last to arrive."""
    weight = quantize([normal(40, 600)], name, device)
    check_added(normal(tokens, 600).to(dtype), weight, normal(tokens, 40).to(dtype), name)


@pytest.mark.parametrize("tokens", [48, 70, 140])
@pytest.mark.parametrize("name", BITS)
def test_gemms_of_a_loaded_step_equal_torch(name, tokens, normal, dtype, device, grid_order):
    """With the tiles that a step takes."""
    x, weight, scratch = (
        normal(tokens, 600).to(dtype),
        quantize([normal(200, 600)], name, device),
        packed_scratch(device),
    )
    assert default_meta(tokens, 200, weight.bits, dtype == torch.float32)["SPLIT"] == MOST_SPLIT
    before = normal(tokens, 200).to(dtype)
    out = before.clone()
    packed_linear(x, weight, out, scratch=scratch, add=True)
    check(out, x, weight, name, before=before.double())
    assert scratch.counters.eq(0).all()


def test_parts_that_have_no_room_are_refused(normal, device):
    """The sums of all parts and a counter for each tile must fit; what is not split needs neither."""
    x, weight, out = normal(20, 600), quantize([normal(40, 600)], "int8", device), torch.empty(20, 40, device=device)
    for scratch in (Scratch.empty(40, device, 20, 2), Scratch.empty(5, device, 20, 30)):
        with pytest.raises(ValueError, match="do not fit the scratch"):
            packed_linear(x, weight, out, scratch=scratch, meta=tiles("int8", 20, 3))
        packed_linear(x, weight, out, scratch=scratch, meta=tiles("int8", 20))
        check(out, x, weight, "int8")


@pytest.mark.parametrize("name", BITS)
def test_gemms_of_halves_can_be_written_as_float32(name, normal, device):
    """As logits are: not rounded at all."""
    x, weight = normal(2, 160).half(), quantize([normal(20, 160)], name, device)
    out = torch.empty(2, 20, device=device)
    packed_linear(x, weight, out, meta=tiles(name, 2))
    check(out, x, weight, name)


@pytest.mark.parametrize("name", BITS)
def test_weights_of_any_size_are_multiplied(name, normal, device):
    """In bfloat16, whose range they have."""
    for size in (1e-20, 6e4 * 127):
        x, weight = normal(3, 64).bfloat16(), quantize([normal(20, 64) * size], name, device)
        out = torch.empty(3, 20, dtype=torch.bfloat16, device=device)
        packed_linear(x, weight, out, meta=tiles(name, 3))
        check(out, x, weight, name)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("k", [45, 300])
@pytest.mark.parametrize("name", BITS)
def test_the_scales_of_a_row_count_for_no_other(name, k, tokens, normal, dtype, device):
    """Those that are read ahead neither, nor those past the end of a row."""
    x, weight = normal(tokens, k).to(dtype), quantize([normal(20, k)], name, device)
    out = torch.empty(tokens, 20, dtype=dtype, device=device)
    weight.scales[1::2] = torch.nan
    packed_linear(x, weight, out, meta=tiles(name, tokens))
    assert out[:, 1::2].isnan().all()
    check(out[:, ::2], x, replace(weight, values=weight.values[::2], scales=weight.scales[::2]), name)


def launch_real_shapes(
    dtype=torch.float16, kinds=(("int8", 1), ("int4", 1), ("int8", 64), ("int8", 128), ("int4", 16), ("int4", 128))
):
    """Launch GEMMs of the 8B for one token, few and many."""
    n, k = 4096, 12_288
    scratch = packed_scratch(torch.device("cpu"))
    for name, tokens in kinds:
        weight = quantize([torch.zeros(1, k)], name, torch.device("cpu"))
        weight = type(weight)(weight.values.expand(n, -1), weight.scales.expand(n, -1), weight.bits, k)
        x, out = torch.zeros(tokens, k).to(dtype), torch.zeros(tokens, n).to(dtype)
        packed_linear(x, weight, out, scratch=scratch, dependent=True, add=True)
    packed_linear(x, weight, out, dependent=True, add=True)  # as the benchmarks do


@pytest.mark.parametrize("precision", ALL_PRECISIONS)
def test_the_kernels_compile_for_each_card_without_spilling(precision, tmp_path):
    """With the shared memory of an A100, an L4 or a 4090, and an H100; on the last, nothing is read before the wait."""
    shared = {80: 163, 89: 99, 90: 227}  # KiB of a program
    for architecture, kernels in compiled_by(
        f"{__name__}:launch_real_shapes:{precision}", tmp_path, ALL_PRECISIONS[precision]
    ).items():
        assert [kernel["kernel"] for kernel in kernels] == ["_packed_gemm"] * 7
        for kernel in kernels:
            assert kernel["spilled_bytes"] <= 16, kernel
            assert kernel["shared_bytes"] <= shared[architecture] * 1024, kernel
            assert kernel["early_accesses"] in (None, 0), kernel


@pytest.mark.parametrize("wide", [False, True])
def test_every_number_of_tokens_has_tiles(wide):
    """A block of tokens that holds them, or several of the largest; the parts of those that are split have room."""
    scratch, largest = packed_scratch(torch.device("cpu")), MOST_WIDE_TOKENS if wide else TOKEN_BLOCKS[-1]
    for name, bits in BITS.items():
        for tokens, n in product((1, 2, 16, 17, 33, 64, 65, 128, 500), (512, 4096, 8192, 24_576)):
            meta = default_meta(tokens, n, bits, wide)
            assert min(tokens, largest) <= meta["TOKENS"] <= largest
            blocks = -(-tokens // meta["TOKENS"]) * -(-n // meta["BLOCK_N"])
            scratch.of_parts(meta["SPLIT"], tokens, n, blocks)
            assert 1 <= meta["SPLIT"] <= MOST_SPLIT
            assert name == "int4" or tokens == 1 or meta["BLOCK_K"] == 128


def programs(tokens, n, bits, multiprocessors):
    """Return the programs of a GEMM."""
    meta = default_meta(tokens, n, bits, multiprocessors=multiprocessors)
    return -(-tokens // meta["TOKENS"]) * -(-n // meta["BLOCK_N"]) * meta["SPLIT"]


@pytest.mark.parametrize("multiprocessors", [58, 108, 132])
def test_a_loaded_step_has_work_for_most_of_a_card(multiprocessors):
    """Of every weight of both models, with the tokens of 65 to 512 rows, on an L4, an A100 and an H100.

    A GEMM that is split has no program that runs after the others.
    """
    for n, tokens in product((6144, 4096, 24_576, 4608, 3584, 37_888), range(65, 513)):
        for bits in BITS.values():
            count = programs(tokens, n, bits, multiprocessors)
            assert 2 * count >= multiprocessors
            assert count <= multiprocessors or count == programs(tokens, n, bits, 1)
