"""The engine's steps taken apart, and the whole command on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.harness.stepping import PARTS, Step
from benchmarks.offline import by_shape, host_verdict, panels, shape_of
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint


def step(rows: int, prompt_tokens: int = 0, host: float = 0.0005) -> Step:
    """Return a step whose own work takes `host` seconds, beside two milliseconds of the model's."""
    return Step(rows, prompt_tokens, schedule=0, prepare=0, model=0.002, sample=0, postprocess=host, keep=0)


@pytest.mark.parametrize(
    ("rows", "prompt_tokens", "name"),
    [
        (1, 0, "1 rows"),
        (4, 0, "2 to 4 rows"),
        (32, 0, "17 to 32 rows"),
        (33, 0, "33 to 64 rows"),
        (0, 90, "no rows and prompts"),
        (5, 90, "5 to 8 rows and prompts"),
    ],
)
def test_steps_are_grouped_by_their_shape(rows: int, prompt_tokens: int, name: str) -> None:
    """Rows in powers of two, and whether prompts were read beside them."""
    assert shape_of(step(rows, prompt_tokens)) == name


def test_host_work_is_all_but_the_model() -> None:
    """The median of a group is told in milliseconds, and the mean, which shows rare long steps."""
    shapes = by_shape([step(32, host=0.0004), step(30, host=0.0006), step(32, host=0.005), step(32, 100, host=0.9)])
    own = shapes["17 to 32 rows"]
    assert (own["steps"], own["host"], own["host_mean"]) == (3, pytest.approx(0.6), pytest.approx(2.0))
    assert own["total"] == pytest.approx(2.6)


def test_the_verdict_is_about_thirty_two_rows_that_decode() -> None:
    """It follows the figures, and says when there are none."""
    assert "met (0.500 ms" in host_verdict(by_shape([step(32)]))
    assert "missed (1.500 ms" in host_verdict(by_shape([step(32, host=0.0015)]))
    assert "not measured" in host_verdict(by_shape([step(4), step(32, 100)]))


def test_the_command_takes_steps_apart_and_asks_for_pictures(tmp_path: Path) -> None:
    """End to end on tiny models: each part of a step has its time, and every figure is written."""
    text, vision = write_text_checkpoint(tmp_path / "text"), write_vision_checkpoint(tmp_path / "vision")
    options = ["--c", "1,2", "--n", "2", "--tokens", "6", "--pictures", "4", "--rounds", "1", "--name", "tiny"]
    assert offline.main(["--text", str(text), "--vision", str(vision), "--results", str(tmp_path), *options]) == 0
    written = json.loads((tmp_path / "tiny.json").read_text())
    shapes = written["steps"]["by_shape"]
    assert all(shapes["1 rows"][part] > 0 for part in set(PARTS) - {"keep"})
    assert set(written["steps"]["tokens_per_second"]) == {"c=1", "c=2"}
    assert written["pictures"]["ratios"][0] > 0
    assert "Pictures" in (tmp_path / "tiny.md").read_text()


def test_the_plot_shows_decode_steps_by_rows() -> None:
    """Steps that read prompts have no place on that axis."""
    first, second = panels(by_shape([step(1), step(32), step(4, 9)]), {"c=4": 100.0})
    assert [x for x, _ in first["series"]["host"]] == [1, 32]
    assert second["series"]["text"] == [[4, 100.0]]
