"""The simulation of blocks and buckets: what the memory budget promises holds, and little is wasted."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks import page_use
from engine.loading.memory_budget import TYPICAL_TOKENS
from engine.schedule.block_pool import BLOCK, blocks_for


def test_as_many_requests_run_as_the_budget_says() -> None:
    """More clients than a cache holds: what runs at once is what the table of the budget calls typical, or more."""
    cache = 12 * blocks_for(TYPICAL_TOKENS) * BLOCK
    seen = page_use.Simulation(cache, clients=20).run(40)
    assert 12 <= fmean(seen.running) <= 20
    assert fmean(seen.used) > 0.8
    assert fmean(seen.filled) > 0.94
    assert seen.given_up < 0.1 * sum(seen.tokens)


@pytest.mark.parametrize("clients", [1, 16])
def test_buckets_add_few_tokens(clients: int) -> None:
    """A step is padded to the next number of tokens that has a graph."""
    seen = page_use.Simulation(64 * 1024, clients).run(30)
    assert all(padded >= tokens for padded, tokens in zip(seen.padded, seen.tokens, strict=True))
    assert sum(seen.padded) <= 1.06 * sum(seen.tokens)


def test_the_program_writes_both_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each cache and for each number of clients."""
    monkeypatch.setattr(page_use, "CACHES", (1024,))
    monkeypatch.setattr(page_use, "CLIENTS", (1, 2))
    monkeypatch.setattr(page_use, "ROWS", 4)
    assert page_use.main(["--requests", "5", "--results", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "page_use.json").read_text())
    assert [row["cache"] for row in written["caches"]] == ["1,024 tokens"]
    assert [row["clients"] for row in written["buckets"]] == ["c=1", "c=2"]
