"""The score of layout shifts: windows as web.dev has them, and what a key or a click causes left out."""

from __future__ import annotations

import pytest

from benchmarks.page_shift import row, score, verdict


def shift(at: float, value: float, caused: bool = False) -> dict[str, object]:
    return {"at": at, "value": value, "caused": caused, "moved": [f"at {at:.0f}"]}


def test_a_window_ends_with_a_second_of_rest_or_after_five() -> None:
    """The largest one is the score."""
    apart = [shift(1000, 0.02), shift(1900, 0.02), shift(3000, 0.03)]
    assert score(apart) == pytest.approx(0.04)
    steady = [shift(1000 + 900 * number, 0.01) for number in range(9)]
    assert score(steady) == pytest.approx(0.06)
    assert score([]) == 0


def test_what_a_key_causes_is_told_apart() -> None:
    """And of the rest, what moved most is named."""
    found = row(390, "a flow", [shift(1000, 0.5, caused=True), shift(1100, 0.01), shift(1200, 0.02)])
    assert found == {"width": 390, "flow": "a flow", "cls": 0.03, "caused": 0.5, "moved": ["at 1200"]}


@pytest.mark.parametrize(("most", "word"), [(0.0499, "met"), (0.05, "missed")])
def test_the_verdict_follows_the_worst_flow(most: float, word: str) -> None:
    """Each under 0.05."""
    assert f": {word} (" in str(verdict([{"cls": 0.0}, {"cls": most}]))
