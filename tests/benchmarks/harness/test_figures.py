"""Percentiles, goodput and the summary of a load: the arithmetic behind every figure."""

from __future__ import annotations

import pytest

from benchmarks.harness.figures import HEADER, Objective, Outcome, percentile, row, summary

OBJECTIVE = Objective(first=1.0, per_token=0.1)


def test_a_percentile_lies_between_its_neighbours() -> None:
    """Linear interpolation, as in numpy and spreadsheets."""
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == pytest.approx(2.5)
    assert percentile(list(range(101)), 95) == pytest.approx(95)
    assert percentile([7.0], 99) == 7.0


def test_no_values_have_no_percentile() -> None:
    """An unknown value is not zero."""
    assert percentile([], 50) is None


@pytest.mark.parametrize(
    ("outcome", "met"),
    [
        (Outcome(3.0, tokens=64, first=1.0), True),
        (Outcome(3.0, tokens=64, first=1.01), False),
        (Outcome(8.0, tokens=64, first=0.5), False),
        (Outcome(0.5, tokens=1, first=0.5), True),
        (Outcome(3.0, tokens=64, first=1.0, error="status 503"), False),
        (Outcome(3.0, tokens=64), False),
    ],
    ids=["at the border", "late first text", "slow after it", "one token", "failed", "first text unknown"],
)
def test_goodput_counts_only_requests_within_the_objective(outcome: Outcome, met: bool) -> None:
    """Both parts of the objective are met, and the request did not fail."""
    assert OBJECTIVE.met(outcome) is met


def test_the_time_of_a_token_leaves_the_first_out() -> None:
    """64 tokens have 63 steps after the first."""
    assert Outcome(7.3, tokens=64, first=1.0).per_token == pytest.approx(0.1)
    assert Outcome(7.3, tokens=64).per_token is None


def test_a_summary_counts_tokens_of_successes_over_the_whole_time() -> None:
    """A failed request adds to failures and to nothing else."""
    outcomes = [
        Outcome(2.0, tokens=11, first=0.2, gaps=(0.1, 0.3)),
        Outcome(4.0, tokens=9, first=1.4, gaps=(0.2,)),
        Outcome(0.1, tokens=5, first=0.05, error="status 503"),
    ]
    figures = summary(outcomes, 4.0, Objective(1.0, 0.2))
    assert figures["tokens_per_second"] == pytest.approx(5.0)
    assert figures["requests_per_second"] == pytest.approx(0.5)
    assert (figures["requests"], figures["failures"], figures["errors"]) == (3, 1, {"status 503": 1})
    assert figures["first_text_ms"]["p50"] == pytest.approx(800)
    assert figures["gap_ms"]["p50"] == pytest.approx(200)
    assert figures["whole_ms"]["p50"] == pytest.approx(3000)
    assert figures["goodput_share"] == pytest.approx(1 / 3)
    assert figures["goodput_requests_per_second"] == pytest.approx(0.25)


def test_unknown_figures_of_an_answer_in_one_piece_are_not_invented() -> None:
    """Without a stream the first text, the gaps and the goodput are n/a."""
    figures = summary([Outcome(2.0, tokens=64)], 2.0, OBJECTIVE)
    cells = dict(zip(HEADER, row("c=1", figures), strict=True))
    assert cells["tokens/s"] == "32.0"
    assert [name for name, cell in cells.items() if cell == "n/a"] == [HEADER[3], HEADER[4], HEADER[6]]


def test_a_load_that_failed_whole_still_has_a_row() -> None:
    """The table shows it rather than breaking."""
    figures = summary([Outcome(0.1, error="status 503")], 1.0, OBJECTIVE)
    assert row("c=1", figures)[-1] == "1 of 1"
