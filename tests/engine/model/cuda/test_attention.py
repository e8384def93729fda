"""Paged attention against plain torch: every dtype, head shape, and mix of decode rows, chunks and split contexts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.model.cuda.attention import META, AttentionWorkspace, paged_attention
from engine.model.cuda.attention_plan import AttentionPlanner
from tests.engine.model.cuda.compile_kernels import ALL_PRECISIONS, compiled_by

pytestmark = pytest.mark.slow  # the interpreter takes seconds for what a card does in microseconds

PAGE = 16
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Step:
    """A step over sequences of (tokens, start), with random queries and a cache whose unused keys are NaN."""

    def __init__(self, device, sequences, heads, kv_heads, head_dim, dtype=torch.float32):
        rng = torch.Generator().manual_seed(0)
        self.device, self.sequences, self.total = device, sequences, sum(tokens for tokens, _ in sequences)
        lengths = [start + tokens for tokens, start in sequences]
        blocks = [-(-length // PAGE) for length in lengths]
        order = (torch.randperm(sum(blocks), generator=rng) + 1).to(torch.int32)
        self.tables = torch.zeros(len(sequences) + 1, max(blocks), dtype=torch.int32)
        self.cache = torch.full((sum(blocks) + 1, 2, kv_heads, PAGE, head_dim), torch.nan, dtype=dtype)
        qkv = torch.randn(self.total, heads + 2 * kv_heads, head_dim, generator=rng).to(dtype)
        self.q = qkv.to(self.device)[:, :heads]
        self.kv = []
        for row, (length, own) in enumerate(zip(lengths, order.split(blocks), strict=True)):
            self.tables[row, : len(own)] = own
            kv = torch.randn(2, kv_heads, length, head_dim, generator=rng).to(dtype)
            self.kv.append(kv)
            for number, block in enumerate(own.tolist()):
                page = kv[:, :, number * PAGE : (number + 1) * PAGE]
                self.cache[block, :, :, : page.shape[2]] = page

    def plan(self, planner, idle=3):
        """Return items and merges, with at least `idle` idle ones of each."""
        tokens, starts = np.array(self.sequences, dtype=np.int32).T
        first = np.cumsum(tokens, dtype=np.int32) - tokens
        items = np.full((planner.max_items(self.total) + idle, 8), -7, dtype=np.int32)
        merges = np.full((planner.max_merges(self.total) + idle, 4), -7, dtype=np.int32)
        self.used = planner.plan(first, tokens, np.arange(len(tokens), dtype=np.int32), starts, items, merges)
        return torch.from_numpy(items), torch.from_numpy(merges)

    def attend(self, planner, plan, last_merges):
        """Return the kernel's output, [T, heads * D]."""
        _, heads, head_dim = self.q.shape
        planner = planner or AttentionPlanner(heads, self.cache.shape[2], multiprocessors=4)
        items, merges = (part.to(self.device) for part in plan or self.plan(planner))
        workspace = AttentionWorkspace.empty(planner.max_partials(self.total), heads, head_dim, self.device)
        workspace.acc.fill_(torch.nan), workspace.stats.fill_(torch.nan)
        out = torch.full((self.total, heads * head_dim), torch.nan, dtype=self.q.dtype, device=self.device)
        meta = {**META, "LAST_MERGES": last_merges}
        cache, tables = self.cache.to(self.device), self.tables.to(self.device)
        paged_attention(self.q, cache, tables, items, merges, workspace, out, meta=meta)
        assert not workspace.arrived.any()
        return out.cpu()

    def expected(self):
        """Return the same, computed plainly in float64."""
        outputs, first, q = [], 0, self.q.cpu().double()
        for (tokens, start), kv in zip(self.sequences, self.kv, strict=True):
            k, v = kv.double().repeat_interleave(q.shape[1] // kv.shape[1], dim=1)
            scores = torch.einsum("thd,hkd->htk", q[first : first + tokens], k) * k.shape[-1] ** -0.5
            future = torch.arange(start + tokens)[None] > torch.arange(start, start + tokens)[:, None]
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            outputs.append(torch.einsum("htk,hkd->thd", weights, v).flatten(1))
            first += tokens
        return torch.cat(outputs).to(self.q.dtype)

    def check(self, planner=None, plan=None):
        """Compare both, with each way to merge."""
        tolerance, expected = TOLERANCE[self.q.dtype], self.expected()
        torch.testing.assert_close(self.attend(planner, plan, False), expected, rtol=tolerance, atol=tolerance)
        if (self.used[1] if plan is None else len(plan[1])) > 0:
            torch.testing.assert_close(self.attend(planner, plan, True), expected, rtol=tolerance, atol=tolerance)


MIXED = [(1, 0), (1, 15), (1, 16), (1, 130), (5, 0), (37, 21), (2, 62), (17, 48)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(2, 2, 16), (4, 2, 32), (8, 2, 64), (8, 2, 128), (7, 1, 128), (14, 2, 16)]
)
def test_decode_rows_and_chunks_in_one_launch(heads, kv_heads, head_dim, dtype, device):
    """Each token attends to its own sequence up to itself, at odd lengths and from the middle of a context too."""
    Step(device, MIXED, heads, kv_heads, head_dim, dtype).check()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (7, 1), (1, 1), (4, 2)])
def test_split_contexts_are_merged(heads, kv_heads, dtype, device, grid_order):
    """Long contexts of a decode row, a short chunk and a chunk of several tiles beside short ones."""
    step = Step(device, [(1, 900), (1, 3), (3, 500), (35, 300), (1, 40)], heads, kv_heads, 16, dtype)
    step.check(AttentionPlanner(heads, kv_heads, multiprocessors=8))
    items, merges = step.used
    assert merges >= 2
    assert items > 5 + merges


@pytest.mark.no_cover
def test_more_parts_than_are_merged_at_once(device):
    """One row of more than twice as many, the last of them with few keys."""
    step = Step(device, [(1, 34 * 256 - 1)], 2, 1, 16)
    step.check(AttentionPlanner(2, 1, multiprocessors=24))
    assert step.used == (34, 1)


def test_a_part_may_hold_no_key_for_the_first_tokens_of_its_tile(device):
    """The last part of this tile begins after the position of its first tokens."""
    step = Step(device, [(16, 56)], 4, 1, 16)
    items = [[0, 16, 0, 56, 0, 48, 0, 0], [0, 16, 0, 56, 48, 64, 16, 0], [0, 16, 0, 56, 64, 72, 32, 0]]
    step.check(plan=(torch.tensor(items, dtype=torch.int32), torch.tensor([[0, 16, 0, 3]], dtype=torch.int32)))


def test_nothing_planned_leaves_the_output_alone(device):
    """Idle items and merges write nothing."""
    step = Step(device, [(1, 20)], 2, 1, 16)
    items, merges = torch.zeros(4, 8, dtype=torch.int32), torch.zeros(2, 4, dtype=torch.int32)
    workspace, out = AttentionWorkspace.empty(1, 2, 16, device), torch.full((1, 32), 7.0, device=device)
    cache, tables = step.cache.to(device), step.tables.to(device)
    paged_attention(step.q, cache, tables, items.to(device), merges.to(device), workspace, out)
    assert out.unique().tolist() == [7.0]


def launch_real_shapes(dtype=torch.float16):
    """Launch attention with the shapes of both models as steps do, and once with merges of their own."""
    for heads, kv_heads, last_merges in ((32, 8, True), (28, 4, True), (32, 8, False)):
        q = torch.zeros(16, heads + 2 * kv_heads, 128, dtype=dtype)[:, :heads]
        layer = torch.zeros(2, 2, kv_heads, PAGE, 128, dtype=dtype)
        integers = torch.zeros(8, 16, dtype=torch.int32)
        workspace = AttentionWorkspace.empty(2, heads, 128, torch.device("cpu"))
        out = torch.zeros(16, heads * 128, dtype=dtype)
        paged_attention(
            q, layer, integers, integers.view(-1, 8), integers.view(-1, 4), workspace, out,
            meta={**META, "LAST_MERGES": last_merges}, dependent=True,
        )  # fmt: skip


@pytest.mark.parametrize("precision", ALL_PRECISIONS)
def test_the_kernels_compile_for_each_card_without_spilling(precision, tmp_path):
    """And at least two programs fit a multiprocessor of a data centre's card, one of the others."""
    found = compiled_by(f"{__name__}:launch_real_shapes:{precision}", tmp_path, ALL_PRECISIONS[precision])
    cards = {80: (163, 2), 89: (99, 1), 90: (227, 2)}
    for architecture, kernels in found.items():
        shared, programs = cards[architecture]
        assert len(kernels) == 4
        for kernel in kernels:
            assert kernel["spilled_bytes"] == 0 or precision == "float32", (architecture, kernel)
            assert kernel["early_accesses"] == (0 if architecture >= 90 else None), (architecture, kernel)
            assert programs * (kernel["shared_bytes"] + 1024) <= shared * 1024, (architecture, kernel)
