"""Ratios between servers, and the verdicts that follow from them."""

from __future__ import annotations

import pytest

from benchmarks.harness.comparison import MISSING, Goal, ratio, spread, verdicts
from tests.benchmarks.harness.figures_of_rounds import rounds

SPEED = ("tokens_per_second",)
MEASURED = {"ours": {"c=1": rounds(120, 100, 90)}, "vLLM": {"c=1": rounds(100, 100, 100)}, "late": {"c=1": rounds(50)}}


def test_a_ratio_is_taken_within_a_round() -> None:
    """Other work of the machine affects both sides; the spread is shown."""
    found = ratio(MEASURED, "ours", "vLLM", "c=1", SPEED)
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (1.0, 0.9, 1.2)
    assert str(found) == "1.00 (0.90 to 1.20)"


def test_only_rounds_that_both_have_count() -> None:
    """A running comparison has fewer rounds of the last server."""
    found = ratio(MEASURED, "ours", "late", "c=1", SPEED)
    assert found is not None
    assert (found.lowest, found.highest) == (2.4, 2.4)


def test_what_was_not_measured_has_no_ratio() -> None:
    """A missing server or load gives no ratio."""
    assert ratio(MEASURED, "ours", "nobody", "c=1", SPEED) is None
    assert ratio(MEASURED, "ours", "vLLM", "c=64", SPEED) is None
    assert spread([]) is None


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        (Goal("a", "vLLM", ("c=1",), least=1.0), "met"),
        (Goal("a", "vLLM", ("c=1",), least=1.01), "missed"),
        (Goal("a", "vLLM", ("c=1",), ("first_text_ms", "p50"), most=1.0), "met"),
        (Goal("a", "vLLM", ("c=1",), ("first_text_ms", "p50"), most=0.5), "missed"),
        (Goal("a", "nobody", ("c=1",), least=1.0), MISSING),
    ],
)
def test_the_verdict_follows_the_median_ratio(goal: Goal, word: str) -> None:
    """A goal is met at its bound; without a measurement it is neither met nor missed."""
    assert verdicts(MEASURED, "ours", [goal])[0][-1] == word
