"""The arithmetic of the tasks on the page: what keys and decisions take, and what is not counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.page_tasks import DECISION, KEY, Visitor, row, verdict

NOBODY: Any = None


def test_actions_take_the_times_of_the_model() -> None:
    """Waiting for the machine is told apart."""
    visitor = Visitor(NOBODY, keys=10, decisions=2, waited=7.0)
    assert visitor.seconds == 10 * KEY + 2 * DECISION
    assert row(390, "a task", visitor)["seconds"] == 5.5
    assert row(390, "a task", visitor)["waited"] == 7.0


def test_a_stop_that_cannot_be_seen_is_an_error() -> None:
    """Whoever works with the keyboard would not know where they are."""
    with pytest.raises(AssertionError, match="<button>"):
        row(390, "a task", Visitor(NOBODY, unseen=["<button>"]))


@pytest.mark.parametrize(("seconds", "word"), [(59.9, "met"), (60.0, "missed")])
def test_the_verdict_follows_the_longest_task(seconds: float, word: str) -> None:
    """Under a minute each."""
    assert f": {word} (" in str(verdict([{"seconds": 1.0}, {"seconds": seconds}]))
