"""The comparison with another tree: by turns, by pairs, and with a status that a pipeline can act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.figures import Figures, Objective, Outcome, summary
from benchmarks.ratio import compare, ratios, server, verdict


def figures(seconds: float, first: float = 0.1, error: str | None = None) -> Figures:
    """Ten answers of 64 tokens in this time, the first text of each after `first` seconds."""
    return summary([Outcome(seconds, 64, first, [], error)] * 10, seconds, Objective())


def test_both_are_measured_in_each_round_and_first_by_turns() -> None:
    """So that neither always has the cooler machine."""
    asked = []

    def measured(which: bool, number: int) -> dict[str, Figures]:
        asked.append((which, number))
        return {"c=1": figures(2.0)}

    assert compare(measured, 3) == [{"c=1, tokens/s": 1.0, "c=1, first text": 1.0}] * 3
    assert asked == [(True, 0), (False, 0), (False, 1), (True, 1), (True, 2), (False, 2)]


def test_a_ratio_over_one_is_better_for_both_figures() -> None:
    """More tokens, and less time."""
    found = ratios({"c=1": figures(1.0, first=0.05)}, {"c=1": figures(2.0, first=0.1)})
    assert found == {"c=1, tokens/s": 2.0, "c=1, first text": 2.0}


def test_a_round_with_failures_is_no_measurement() -> None:
    """A server that fails fast would be fast."""
    with pytest.raises(ValueError, match="status 503"):
        ratios({"c=1": figures(1.0, error="status 503")}, {"c=1": figures(1.0)})


def test_the_median_decides() -> None:
    """One bad round of five is the machine, three are the tree."""
    rounds = [{"a": one, "b": other} for one, other in zip([0.5, 1, 1, 1, 1], [0.8, 0.8, 0.8, 1, 1], strict=True)]
    rows, slower = verdict(rounds, 0.9)
    assert slower == ["b"]
    assert rows == [["a", "1.000", "0.500", "1.000"], ["b", "0.800", "0.800", "1.000"]]
    assert verdict(rounds, 0.75)[1] == []


def test_each_tree_is_run_in_its_folder_by_its_python(tmp_path: Path) -> None:
    """With the same model and settings."""
    old = server(tmp_path, "/old/python", tmp_path)
    assert (old.folder, old.command[0]) == (tmp_path, "/old/python")
    assert old.command[1:3] == ("-m", "gunicorn")
    assert old.env["VIBE_MODEL_DIR"] == str(tmp_path)
