"""The engine's steps grouped by shape, and the verdict on them."""

from __future__ import annotations

import pytest

from benchmarks.harness.step_report import by_shape, host_verdict, shape_of
from benchmarks.harness.stepping import Step


def step(rows: int, prompt_tokens: int = 0, host: float = 0.0005) -> Step:
    """Return a step of `host` seconds of host work and two milliseconds of the model."""
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
    """Rows in powers of two, and whether prompts are read in the same step."""
    assert shape_of(step(rows, prompt_tokens)) == name


def test_host_work_is_all_but_the_model() -> None:
    """Median and mean of a group in milliseconds; the mean shows rare long steps."""
    shapes = by_shape([step(32, host=0.0004), step(30, host=0.0006), step(32, host=0.005), step(32, 100, host=0.9)])
    own = shapes["17 to 32 rows"]
    assert (own["steps"], own["host"], own["host_mean"]) == (3, pytest.approx(0.6), pytest.approx(2.0))
    assert own["total"] == pytest.approx(2.6)


def test_the_verdict_is_about_thirty_two_rows_that_decode() -> None:
    """It follows the mean of all of them, with prompts or without, or reports that there are none."""
    assert "met (0.500 ms" in str(host_verdict(by_shape([step(32)])))
    assert "missed (1.500 ms" in str(host_verdict(by_shape([step(32, host=0.0015)])))
    both = [step(32), step(32), step(32), step(32, 100, host=0.0021)]
    assert "met (0.900 ms" in str(host_verdict(by_shape(both)))
    assert "missed (1.033 ms" in str(host_verdict(by_shape(both[1:])))
    assert "not measured" in str(host_verdict(by_shape([step(4), step(4, 100)])))
