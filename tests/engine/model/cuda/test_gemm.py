"""The GEMMs of a step: our own kernels give what torch gives, and serve only the shapes they were measured for."""

from __future__ import annotations

import pytest
import torch

from engine.model.cuda import gemm
from engine.model.cuda.gemm import Gemms
from engine.model.cuda.skinny import MOST_PARTS, MOST_TOKENS
from engine.model.cuda.tuning import Tuning
from engine.model.cuda.weights import DecoderShape
from tests.engine.model.cuda.compile_kernels import compiled_by
from tests.engine.model.cuda.substitutes import tiles_for_any

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

HIDDEN, INNER, VOCABULARY = 64, 96, 80


def shape(dtype, device, hidden=HIDDEN):
    """Return the sizes of a tiny model."""
    return DecoderShape(
        hidden=hidden, heads=2, kv_heads=1, head_dim=16, layers=1, vocabulary=VOCABULARY, eps=1e-6, dtype=dtype,
        device=device,
    )  # fmt: skip


def computed(ways, tokens, dtype, device):
    """Return the results of every GEMM."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator).to(device, dtype)

    x, norm, both = normal(tokens, HIDDEN), normal(HIDDEN), normal(tokens, 2 * INNER)
    qkv, bias, head = normal(HIDDEN + 16, HIDDEN), normal(HIDDEN + 16), normal(VOCABULARY, HIDDEN)
    added, activated = normal(tokens, HIDDEN), normal(tokens, HIDDEN)
    results = [ways.norm_linear(x, norm, qkv, bias), ways.norm_linear(x, norm, qkv), added, activated]
    ways.add(x, normal(HIDDEN, HIDDEN), added)
    ways.silu_add(both, normal(HIDDEN, INNER), activated)
    logits = torch.empty(tokens, VOCABULARY, device=device)
    ways.logits(x, norm, head, logits)
    return [*results, logits]


@pytest.mark.parametrize("tokens", [1, 3, MOST_TOKENS, MOST_TOKENS + 1])
@pytest.mark.parametrize("split", [1, 2])
def test_our_kernels_give_the_gemms_of_torch(tokens, split, dtype, device, monkeypatch):
    """Within the rounding of each precision, for one token, several, and more than the kernels take."""
    used = []

    def tiles(count, weight):
        used.append(count)
        tiles = tiles_for_any(count, weight)
        ends = weight.shape[0] == HIDDEN
        return tiles and {**tiles, "BLOCK_N": 16, "BLOCK_K": 32, "SPLIT": split if ends else 1}

    monkeypatch.setattr(gemm, "tiles_for", tiles)
    expected = computed(Gemms(shape(dtype, device), Tuning(skinny=False)), tokens, dtype, device)
    assert not used
    found = computed(Gemms(shape(dtype, device), Tuning()), tokens, dtype, device)
    assert len(used) == 5
    # torch rounds the norm and, in the interpreter's process, the sum before the residual.
    allowed = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for ours, theirs in zip(found, expected, strict=True):
        greatest = float(theirs.float().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=allowed, atol=allowed * greatest)


def test_tiles_are_those_of_few_tokens_in_half_precision():
    """Other shapes, more tokens and full precision were not measured: they stay with cuBLAS."""
    weight = torch.empty(4096, 12_288, dtype=torch.float16, device="meta")
    one, more = gemm.TILES[4096, 12_288]
    assert [gemm.tiles_for(tokens, weight) for tokens in (1, 2, 16, 17)] == [one, more, more, None]
    assert gemm.tiles_for(1, weight.float()) is None
    assert gemm.tiles_for(1, weight[:, 1:]) is None


def test_only_gemms_that_end_in_the_residual_stream_are_split():
    """The scratch has room for these, and one token's GEMM with a norm cannot be split."""
    for (n, _), ways in gemm.TILES.items():
        for tiles in filter(None, ways):
            assert tiles["SPLIT"] == 1 or (n in (4096, 3584) and tiles["SPLIT"] <= MOST_PARTS)
        assert ways[0]["SPLIT"] == 1


def test_no_gemm_overlaps_the_kernel_ahead_unless_launches_are_dependent():
    """One setting turns all of them off."""
    weight = torch.empty(4096, 4096, dtype=torch.float16, device="meta")
    x, sizes = weight[:1], shape(torch.float16, torch.device("meta"), 4096)
    assert Gemms(sizes, Tuning())._tiles(x, weight)["OVERLAP"] == "prefetch"
    assert Gemms(sizes, Tuning(dependent=False))._tiles(x, weight)["OVERLAP"] == "off"


def launch_every_tiles():
    """Launch each GEMM of the table as a step does."""
    for (n, k), _ in gemm.TILES.items():
        ways = Gemms(shape(torch.float16, torch.device("cpu"), max(n, k) if n <= 4096 else 4096), Tuning())
        for tokens in (1, 2):
            weight = torch.empty(n, k, dtype=torch.float16)
            x, norm = torch.zeros(tokens, k).half(), torch.zeros(k).half()
            if n > 100_000:
                ways.logits(x, norm, weight, torch.empty(tokens, n))
            elif n > 4096 and gemm.tiles_for(tokens, weight):
                ways.norm_linear(x, norm, weight)
            elif k > 4096:
                ways.silu_add(torch.zeros(tokens, 2 * k).half(), weight, torch.zeros(tokens, n).half())
            elif n <= 4096:
                ways.add(x, weight, torch.zeros(tokens, n).half())


def test_every_tiles_of_the_table_fit_a_card(tmp_path):
    """Without spilling, on the architecture they were measured on."""
    kernels = compiled_by("tests.engine.model.cuda.test_gemm:launch_every_tiles", tmp_path, [90])[90]
    of_gemms = [kernel for kernel in kernels if kernel["kernel"] == "_skinny"]
    assert len(of_gemms) == 18
    for kernel in of_gemms:
        assert kernel["spilled_bytes"] <= 16, kernel
        assert kernel["shared_bytes"] <= 227 * 1024, kernel
