"""Ratios between servers, and the verdicts that follow from them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import peers
from benchmarks.comparison import MISSING, Aim, ratio, spread, verdicts
from benchmarks.figures import Objective, Outcome, summary

SPEED = ("tokens_per_second",)


def rounds(*speeds: float) -> list[dict[str, Any]]:
    """Return a summary for each round, with so many tokens a second and a first text after 1 / speed."""
    return [
        summary([Outcome(1.0, tokens=int(speed), first=1 / speed, gaps=(0.01,))], 1.0, Objective()) for speed in speeds
    ]


MEASURED = {"ours": {"c=1": rounds(120, 100, 90)}, "vLLM": {"c=1": rounds(100, 100, 100)}, "late": {"c=1": rounds(50)}}


def test_a_ratio_is_taken_within_a_round() -> None:
    """What else the machine did falls on both sides; the spread is shown."""
    found = ratio(MEASURED, "ours", "vLLM", "c=1", SPEED)
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (1.0, 0.9, 1.2)
    assert str(found) == "1.00 (0.90 to 1.20)"


def test_only_rounds_that_both_have_count() -> None:
    """A run that is still going on has fewer rounds of the last server."""
    found = ratio(MEASURED, "ours", "late", "c=1", SPEED)
    assert found is not None
    assert (found.lowest, found.highest) == (2.4, 2.4)


def test_what_was_not_measured_has_no_ratio() -> None:
    """Neither a server nor a load that is missing is guessed."""
    assert ratio(MEASURED, "ours", "nobody", "c=1", SPEED) is None
    assert ratio(MEASURED, "ours", "vLLM", "c=64", SPEED) is None
    assert spread([]) is None


@pytest.mark.parametrize(
    ("aim", "word"),
    [
        (Aim("a", "vLLM", ("c=1",), least=1.0), "met"),
        (Aim("a", "vLLM", ("c=1",), least=1.01), "missed"),
        (Aim("a", "vLLM", ("c=1",), ("first_text_ms", "p50"), most=1.0), "met"),
        (Aim("a", "vLLM", ("c=1",), ("first_text_ms", "p50"), most=0.5), "missed"),
        (Aim("a", "nobody", ("c=1",), least=1.0), MISSING),
    ],
)
def test_the_verdict_follows_the_median_ratio(aim: Aim, word: str) -> None:
    """At the bound an aim is met; what was not measured is neither."""
    assert verdicts(MEASURED, "ours", [aim])[0][-1] == word


def test_every_round_begins_with_another_server() -> None:
    """Nobody always has the warm or the quiet machine."""
    names = ["a", "b", "c"]
    compared = [peers.Server(name, (), "/") for name in names]
    order = [(number, server.name) for number, server in peers.in_turn(compared, 4)]
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [number for number, _ in order] == [number for number in range(4) for _ in names]


def test_the_report_has_every_load_and_every_aim(tmp_path, capsys) -> None:
    """What is known so far can be written after every server."""
    command = ["--text", "t", "--c", "1,32", "--results", str(tmp_path), "--logs", str(tmp_path)]
    asked = peers.arguments(command)
    todo = peers.tasks(asked.c, pictures=True)
    broken = [summary([Outcome(0.1, error="status 503")], 1.0, Objective())]
    measured = {"ours": {"c=1": rounds(120)}, "vLLM": {"c=1": rounds(100)}, "transformers serve": {"c=32": broken}}
    text = peers.report(peers.record.facts(["torch"]), measured, todo, asked).read_text()
    assert "1.20 (1.20 to 1.20)" in text
    assert text.count("not measured") == len(peers.verdicts(measured, "ours", peers.aims(asked.c))) - 1
    assert "Failed requests: 1. transformers serve: status 503 (1)" in text


def test_a_server_that_does_not_start_ends_the_run(tmp_path, capsys) -> None:
    """One sentence that says where to look, and a status; what was measured before it is kept."""
    command = ["--text", str(tmp_path / "nothing"), "--no-lock", "--no-pin", "--c", "1", "--rounds", "1"]
    assert peers.main([*command, "--results", str(tmp_path), "--logs", str(tmp_path / "logs")]) == 1
    assert str(tmp_path / "logs") in capsys.readouterr().err
    assert "VIBE_MODEL_DIR" in (tmp_path / "logs" / "ours.log").read_text()
