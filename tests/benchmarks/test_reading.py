"""The benchmark of a token beside reading its weights, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import reading
from benchmarks.offline import spec
from engine.loading.loader import load_model
from tests.checkpoints import write_text_checkpoint


@pytest.mark.slow
@pytest.mark.needs("cc")
def test_the_command_compares_a_token_with_a_reading(tmp_path: Path) -> None:
    """End to end: each round has both, and the ratio is that of their means."""
    text = write_text_checkpoint(tmp_path / "text", max_position_embeddings=1024)
    options = ["--text", str(text), "--tokens", "4", "--rounds", "2", "--name", "tiny", "--results", str(tmp_path)]
    status = reading.main(options, threads=lambda count: None)
    content = json.loads((tmp_path / "tiny.json").read_text())
    rounds = content["rounds"]
    assert len(rounds) == 2
    sums = {name: sum(one[name] for one in rounds) for name in rounds[0]}
    token = sums.pop("token")
    ratio = token / min(sums.values())
    assert 0 < min(sums.values()) < max(sums.values())
    assert f"ratio of the means {ratio:.2f};" in (tmp_path / "tiny.md").read_text()
    assert status == (1 if ratio > reading.TARGET else 0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_the_head_and_no_other_table(tmp_path: Path, tied: bool) -> None:
    """A table of embeddings is looked up, one row a token."""
    folder = write_text_checkpoint(tmp_path / "text", tie_word_embeddings=tied)
    model = load_model(spec(folder, vision=False), lambda progress: None, 64)
    layers = sum(weight.nbytes for weight in model.model.model.layers.parameters())
    rest = model.model.model.norm.weight.nbytes + model.model.lm_head.weight.nbytes
    assert reading.bytes_read(model) == layers + rest
