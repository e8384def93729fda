"""Ratios between servers, and the verdicts that follow from them."""

from __future__ import annotations

import pytest

from benchmarks.harness.comparison import Goal, comparison, ratio, spread, verdicts
from benchmarks.harness.figures import Objective, Outcome, summary
from benchmarks.harness.targets import Word
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
        (Goal("a", "nobody", ("c=1",), least=1.0), Word.NOT_MEASURED),
    ],
)
def test_the_verdict_follows_the_median_ratio(goal: Goal, word: str) -> None:
    """A goal is met at its bound; without a measurement it is neither met nor missed."""
    assert verdicts(MEASURED, "ours", [goal])[0][-1] == word


REFUSED = [Outcome(0.01, error="status 503")] * 80
SERVED = [Outcome(1.0, tokens=64, first=0.1, gaps=(0.01,))] * 16


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(REFUSED + SERVED, SERVED), (SERVED, SERVED + REFUSED), (SERVED, REFUSED), (REFUSED, REFUSED)],
    ids=["ours refuses", "theirs refuses", "theirs answers nothing", "both"],
)
@pytest.mark.parametrize("path", [SPEED, ("first_text_ms", "p99")])
def test_a_load_with_failed_requests_is_not_comparable(ours, theirs, path) -> None:
    """Whoever refuses most of it in ten milliseconds is not as fast as a peer that answers all of it."""
    measured = {
        name: {"c=1": [summary(outcomes, 1.0, Objective())]} for name, outcomes in (("ours", ours), ("vLLM", theirs))
    }
    assert comparison(measured, "ours", "vLLM", "c=1", path) is Word.NOT_COMPARABLE
    assert verdicts(measured, "ours", [Goal("a", "vLLM", ("c=1",), path, least=0.0)]) == [
        ("a", "c=1", "", "not comparable")
    ]
