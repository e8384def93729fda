"""The offline benchmark on tiny models, and its plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.harness.step_report import by_shape
from benchmarks.harness.stepping import PARTS, Step
from benchmarks.offline import panels
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint


def step(rows: int, prompt_tokens: int) -> Step:
    """Return a step of a millisecond in each part."""
    return Step(rows, prompt_tokens, *[0.001] * len(PARTS))


@pytest.mark.slow
def test_the_command_times_steps_and_images(tmp_path: Path) -> None:
    """End to end on tiny models: each part of a step is timed, and every figure is written."""
    text, vision = write_text_checkpoint(tmp_path / "text"), write_vision_checkpoint(tmp_path / "vision")
    options = ["--c", "1,2", "--n", "2", "--tokens", "6", "--images", "4", "--rounds", "1", "--name", "tiny"]
    status = offline.main(["--text", str(text), "--vision", str(vision), "--results", str(tmp_path), *options])
    assert status == int(": missed (" in (tmp_path / "tiny.md").read_text())
    written = json.loads((tmp_path / "tiny.json").read_text())
    shapes = written["steps"]["by_shape"]
    assert all(shapes["1 rows"][part] > 0 for part in set(PARTS) - {"keep"})
    assert set(written["steps"]["tokens_per_second"]) == {"c=1", "c=2"}
    assert written["images"]["ratios"][0] > 0
    assert "Images" in (tmp_path / "tiny.md").read_text()


def test_the_plot_shows_decode_steps_by_rows() -> None:
    """Steps that also read prompts are not plotted."""
    first, second = panels(by_shape([step(1, 0), step(32, 0), step(4, 9)]), {"c=4": 100.0})
    assert [x for x, _ in first["series"]["host"]] == [1, 32]
    assert second["series"]["text"] == [[4, 100.0]]
