"""The benchmark of the formats of weights on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import weights
from tests.checkpoints import write_text_checkpoint


@pytest.mark.slow
@pytest.mark.needs("cc")
def test_errors_grow_as_bits_become_fewer(tmp_path: Path) -> None:
    """Each format has its figures in the results, and float32 has no error."""
    text = write_text_checkpoint(tmp_path / "text")
    options = ["error", "--text", str(text), "--name", "tiny", "--results", str(tmp_path)]
    assert weights.main(options, threads=lambda count: None) == 0
    errors = json.loads((tmp_path / "tiny.json").read_text())["errors"]
    relative = [errors[name]["relative"] for name in weights.FORMATS]
    assert relative == sorted(relative)
    assert (relative[0], errors["float32"]["same"]) == (0, 1)
    assert f"{relative[-1]:.2e}" in (tmp_path / "tiny.md").read_text()
