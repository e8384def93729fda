"""Each kernel against torch in double precision, for shapes with whole tiles and with partial ones."""

import math
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from engine.model.kernels import library
from engine.model.kernels.library import Kernels
from engine.model.kernels.packed import Arena
from engine.schedule.block_pool import BLOCK, blocks_for
from tests.engine.model.paged_attention import paged_attention_reference

pytestmark = pytest.mark.needs("cc")


@pytest.fixture(params=[1, 2])
def threads(request):
    """Each kernel runs on one thread and on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rounds(kernels):
    """Whether they multiply bfloat16, on processors that do."""
    return bool(kernels._library.half_multiplies())


def close(found, expected):
    """Compare float32 with double precision."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("out", "inner"), [(64, 128), (192, 256), (50, 40), (1, 1), (130, 300)])
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 13, 18, 24, 25, 150, 193])
def test_gemm_is_the_linear_layer(rows, out, inner, bias, add, threads, kernels):
    """For any number of rows, more than a band too, whole and partial panels, parts of one, with bias, added."""
    generator = torch.Generator().manual_seed(rows * out)
    x, weight = torch.randn(rows, inner, generator=generator), torch.randn(out, inner, generator=generator)
    shift = torch.randn(out, generator=generator) if bias else None
    before = torch.randn(rows, out, generator=generator)
    expected = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    if add:
        expected += before.double()
    y = kernels.gemm(x, kernels.pack(weight, shift, Arena()), before if add else None)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_a_view_is_packed_in_logical_order(kernels):
    """A transposed view is packed as the transposed matrix."""
    x, weight = torch.randn(3, 300), torch.randn(300, 200).T
    torch.testing.assert_close(kernels.gemm(x, kernels.pack(weight, None, Arena())), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_a_row_of_a_gemm_does_not_depend_on_the_batch(kernels):
    """The same sum in the same order, bit for bit, alone and in any batch."""
    x, packed = torch.randn(100, 300), kernels.pack(torch.randn(70, 300), None, Arena())
    alone = torch.cat([kernels.gemm(row[None], packed) for row in x])
    assert all(torch.equal(kernels.gemm(x[:rows], packed), alone[:rows]) for rows in (2, 7, 26, 100))


def test_packed_weights_lie_together(kernels):
    """In memory of one arena, each at the start of a cache line: small ones get huge pages too."""
    arena = Arena()
    first, second = (kernels.pack(torch.randn(130, 300), None, arena).panels for _ in range(2))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert second.data_ptr() - first.data_ptr() == first.nbytes
    assert first.data_ptr() % 64 == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (40, 512)])
def test_a_norm_divides_by_the_root_of_the_sum_of_squares(shape, threads, kernels):
    """With eps added under the root; zeros stay zeros."""
    x = torch.randn(shape)
    close(kernels.norm(x, 0.5), x.double() / (x.double().square().sum(-1, keepdim=True) + 0.5).sqrt())
    assert not kernels.norm(torch.zeros(shape), 1e-6).any()


@pytest.mark.parametrize("shape", [(1, 2), (3, 34), (40, 1024)])
def test_silu_and_mul_is_silu_of_the_first_half_times_the_second(shape, threads, kernels):
    """Including values for which the exponential overflows."""
    x = torch.randn(shape) * 60
    left, right = x.double().chunk(2, dim=-1)
    torch.testing.assert_close(kernels.silu_and_mul(x).double(), F.silu(left) * right, rtol=1e-5, atol=1e-30)


def test_silu_and_mul_keeps_values_that_are_not_finite(kernels):
    """NaN stays NaN, and infinity stays infinity."""
    x = torch.zeros(1, 64)
    x[:, 32:] = 2.0
    x[0, :3] = torch.tensor([math.nan, math.inf, 1000.0])
    y = kernels.silu_and_mul(x)[0]
    assert y[0].isnan()
    assert y[1] == math.inf
    assert y[2] == 2000.0
    assert not y[3:].any()


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dim", [2, 8, 16, 24, 64, 80, 128])
@pytest.mark.parametrize("rows", [1, 5, 120])
def test_qk_norm_rope_normalizes_and_rotates_in_place(rows, dim, normed, threads, kernels):
    """Only the given heads of wider rows are changed; pairs are adjacent."""
    wide = torch.randn(rows, 5, dim)
    weights = torch.randn(3, dim) if normed else None
    rotary = torch.polar(torch.ones(rows, 1, dim // 2), torch.randn(rows, 1, dim // 2))
    x = wide[:, :3].double()
    if weights is not None:
        x = x / (x.square().sum(-1, keepdim=True) + 0.25).sqrt() * weights.double()
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotary).flatten(-2)
    rest = wide[:, 3:].clone()
    kernels.qk_norm_rope(wide[:, :3], weights, rotary, 0.25)
    close(wide[:, :3], expected)
    assert torch.equal(wide[:, 3:], rest)


def test_store_writes_keys_and_values_to_their_slots_only(kernels):
    """The key heads and the value heads of each row, from wider rows."""
    layer = torch.zeros(4, 2, 3, BLOCK, 20)
    x = torch.randn(2, 10, 20)
    blocks, offsets = torch.tensor([3, 1]), torch.tensor([0, 9])
    kernels.store(x[:, 4:], layer, blocks * BLOCK + offsets)
    for row in range(2):
        assert torch.equal(layer[blocks[row], :, :, offsets[row]].flatten(0, 1), x[row, 4:])
    assert int((layer != 0).any(-1).sum()) == 12


def paged(slots, longest, kv_heads, dim):
    """Return one layer of a cache with random blocks, and tables [slots, columns] of blocks in any order."""
    columns = blocks_for(longest)
    layer = torch.randn(slots * columns + 1, 2, kv_heads, BLOCK, dim)
    return layer, (torch.randperm(slots * columns) + 1).view(slots, columns).int()


@pytest.mark.parametrize("dim", [16, 48, 64, 128, 256])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (2, 3), (4, 2)])
def test_each_row_attends_to_its_own_length(kv_heads, group, dim, threads, kernels):
    """For lengths that are and are not multiples of the vector width, a wide range of scores, rows in any slot."""
    lengths = torch.tensor([1, 15, 16, 17, 33, 40, 40])
    rows, heads = len(lengths), kv_heads * group
    layer, tables = paged(8, 40, kv_heads, dim)
    slots = torch.tensor([7, 0, 3, 1, 6, 2, 5])
    wide = torch.randn(rows, heads + 2 * kv_heads, dim) * 5
    q, out = wide[:, :heads], torch.empty(rows, heads * dim)
    kernels.attend(q, layer, tables, slots, lengths, int(lengths.max()), out)
    spans = [(int(slot), int(length) - 1, 1) for slot, length in zip(slots, lengths, strict=True)]
    expected = paged_attention_reference(q, layer, tables, spans)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [16, 48, 64, 128, 256])
@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 5), (0, 64), (1, 49), (70, 100), (130, 2)])
def test_a_chunk_attends_causally(start, count, dim, threads, kernels):
    """With and without tokens before it, in one block and in several; later tokens are masked."""
    kv_heads, group = 2, 3
    layer, tables = paged(1, start + count, kv_heads, dim)
    wide = torch.randn(count, kv_heads * (group + 2), dim) * 3
    q, out = wide[:, : kv_heads * group], torch.empty(count, kv_heads * group * dim + 5)
    kernels.attend_chunk(q, layer, tables[0], start, out[:, :-5])
    expected = paged_attention_reference(q, layer, tables, [(0, start, count)])
    torch.testing.assert_close(out[:, :-5].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 5), (0, 64), (1, 49), (70, 100), (130, 2), (31, 1)])
def test_a_chunk_is_rounded_where_the_processor_multiplies_bfloat16(start, count, dim, threads, kernels):
    """Queries, keys and values to the nearest, and the weights, by 2^-8 of each; elsewhere nothing changes.

    What lies past the end in the last block, not a number here, has no weight.
    """
    kv_heads, group = 2, 3
    layer, tables = paged(1, start + count, kv_heads, dim)
    layer[tables[0, -1], :, :, (start + count - 1) % BLOCK + 1 :] = math.nan
    wide = torch.randn(count, kv_heads * (group + 2), dim) * 3
    q, out = wide[:, : kv_heads * group], torch.empty(count, kv_heads * group * dim + 5)
    kernels.attend_chunk(q, layer, tables[0], start, out[:, :-5], rounded=True)
    spans = [(0, start, count)]
    if rounds(kernels):
        expected = paged_attention_reference(q.bfloat16(), layer.bfloat16(), tables, spans)
        allowed = 2**-8 * paged_attention_reference(q.bfloat16(), magnitudes(layer), tables, spans)
        assert ((out[:, :-5].double() - expected).abs() <= allowed + 1e-4).all()
    else:
        kernels.attend_chunk(q, layer, tables[0], start, (plain := torch.empty_like(out))[:, :-5])
        assert torch.equal(out[:, :-5], plain[:, :-5])


def magnitudes(layer):
    """The rounded keys of a layer of the cache, and how large its values are."""
    keys, values = layer.bfloat16().unbind(1)
    return torch.stack([keys, values.abs()], dim=1)


def test_heads_that_are_no_pairs_of_vectors_are_not_rounded(kernels):
    """Their attention stays one of floats."""
    layer, tables = paged(1, 20, 1, 48)
    q, (rounded, plain) = torch.randn(20, 1, 48), torch.empty(2, 20, 48)
    kernels.attend_chunk(q, layer, tables[0], 0, rounded, rounded=True)
    kernels.attend_chunk(q, layer, tables[0], 0, plain)
    assert torch.equal(rounded, plain)


def test_rounded_weights_are_those_of_any_scores(kernels):
    """Equal ones, a wide range, far below the highest; a score that is no number makes its row none."""
    for scale in (0.0, 30.0, 3000.0):
        layer, tables = paged(1, 40, 1, 32)
        layer[:, 0] *= scale
        q, out = torch.randn(40, 1, 32), torch.empty(40, 32)
        kernels.attend_chunk(q, layer, tables[0], 0, out, rounded=True)
        keys_and_q = (q.bfloat16(), layer.bfloat16()) if rounds(kernels) else (q, layer)
        expected = paged_attention_reference(*keys_and_q, tables, [(0, 0, 40)])
        torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=2**-7)
    layer[tables[0, 1], 0, 0, 4, 3] = math.nan
    kernels.attend_chunk(q, layer, tables[0], 0, out, rounded=True)
    assert out[:20].isfinite().all()
    assert out[20:].isnan().all()


def test_attention_propagates_nan(kernels):
    """One NaN in a key makes its whole row NaN, so that the check of the logits finds it; past the end it does not."""
    layer, tables = paged(2, 40, 1, 16)
    layer[tables[1, 1], 0, 0, 4, 3] = math.nan
    layer[tables[0, 2], :, 0, 8:] = math.nan
    out = torch.empty(2, 16)
    kernels.attend(torch.randn(2, 1, 16), layer, tables, torch.tensor([0, 1]), torch.tensor([40, 40]), 40, out)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


def test_only_head_sizes_that_fill_the_registers_are_supported(kernels):
    """Models with other sizes use the attention of torch."""
    assert [dim for dim in (8, 16, 24, 64, 80, 128, 256, 512) if Kernels.supports_head(dim)] == [16, 64, 80, 128, 256]


def test_zero_rows_are_allowed(threads, kernels):
    """As in a step with only parts of prompts, which gives no logits; a tensor that is added to stays as it is."""
    none = torch.empty(0, 64)
    packed = kernels.pack(torch.randn(32, 64), torch.randn(32), Arena())
    assert kernels.gemm(none, packed).shape == (0, 32)
    assert kernels.gemm(none, packed, torch.empty(0, 32)).shape == (0, 32)
    assert kernels.norm(none, 1.0).shape == (0, 64)
    assert kernels.silu_and_mul(none).shape == (0, 32)
    layer, index = torch.zeros(1, 2, 1, BLOCK, 16), torch.empty(0, dtype=torch.long)
    tables = torch.zeros(1, 1, dtype=torch.int32)
    kernels.qk_norm_rope(torch.empty(0, 2, 16), None, torch.empty(0, 1, 8, dtype=torch.complex64), 0.0)
    kernels.store(torch.empty(0, 2, 16), layer, index)
    kernels.attend(torch.empty(0, 1, 16), layer, tables, index, index, 1, torch.empty(0, 16))
    kernels.sample(none, array("i"))
    assert not layer.any()


def test_scratch_memory_is_kept_by_thread_unless_it_is_large(kernels, monkeypatch):
    """A call asks for none that an earlier one of its thread had; two threads never have the same."""
    own = kernels.scratch(1000)
    assert kernels.scratch(10) is own
    assert kernels.scratch(len(own) + 1) is not own
    own = kernels.scratch(10)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(kernels.scratch, 1000).result()
    assert other.data_ptr() != own.data_ptr()
    assert not own.data_ptr() % 64
    assert not other.data_ptr() % 64
    monkeypatch.setattr(library, "KEPT_FLOATS", len(own))
    assert len(kernels.scratch(len(own) + 1)) > len(own)
    assert kernels.scratch(10) is own
