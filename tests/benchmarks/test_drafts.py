"""The benchmark of drafts on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import drafts
from tests.checkpoints import write_text_checkpoint


@pytest.mark.slow
def test_the_command_compares_answers_with_and_without_drafts(tmp_path: Path) -> None:
    """End to end: a ratio a round, drafts where a text repeats itself, and the same answers."""
    text = write_text_checkpoint(tmp_path / "text", max_position_embeddings=1024)
    options = ["--kinds", "repeated,greedy", "--c", "1", "--rounds", "1", "--name", "tiny", "--results", str(tmp_path)]
    drafts.main(["--text", str(text), *options], threads=lambda count: None)
    figures = json.loads((tmp_path / "tiny.json").read_text())
    for kind in ("repeated", "greedy"):
        found = figures[f"{kind} c=1"]
        assert len(found["ratios"]) == 1
        assert found["different"] == 0
        assert 0 < found["right"] <= found["drafted"]
        assert f"| {kind} | c=1 |" in (tmp_path / "tiny.md").read_text()
