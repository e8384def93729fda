"""Results files, and their plots if matplotlib is installed."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.harness import plot, record

PANEL = {"title": "t", "x": "clients", "y": "ms", "series": {"a": [[1, 2.0, 1.0, 3.0], [4, None, None, None]]}}


def test_a_plot_is_drawn_if_matplotlib_is_installed(tmp_path: Path) -> None:
    """Without the library the figures are still written."""
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"plot": [PANEL, {**PANEL, "series": {}, "target": 1.0}]}))
    drawn = plot.draw(path)
    assert (drawn is not None) == (find_spec("matplotlib") is not None)
    assert drawn is None or drawn.read_bytes().startswith(b"\x89PNG")


def test_a_record_shows_its_plot(tmp_path: Path) -> None:
    """The page names the image beside it, and none that does not exist."""
    facts = record.facts(["torch"])
    page = record.write("some", facts, {}, "Some figures", [], tmp_path, [PANEL]).read_text()
    assert ("![Some figures](some.png)" in page) == (tmp_path / "some.png").exists()
    assert f"{facts['memory_gb']} GB of memory" in page


@pytest.mark.needs("git")
def test_the_state_of_a_working_tree_is_recorded(tmp_path: Path) -> None:
    """A clean tree is clean, a changed file is a change, and a folder without a repository has no commit."""
    assert record.state_of(tmp_path) == {"commit": "unknown", "uncommitted_changes": False}
    tracked, result = tmp_path / "tracked", tmp_path / "benchmarks" / "results" / "one.json"
    result.parent.mkdir(parents=True)
    for path in (tracked, result):
        path.write_text("one")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, timeout=600)
    (tmp_path / "untracked").touch()
    clean = record.state_of(tmp_path)
    assert (len(clean["commit"]), clean["uncommitted_changes"]) == (40, False)
    result.write_text("two")  # by the program before
    assert record.state_of(tmp_path) == clean
    tracked.write_text("two")
    assert record.state_of(tmp_path) == {**clean, "uncommitted_changes": True}


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark also runs in a container that has no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record.state_of(tmp_path) == {"commit": "unknown", "uncommitted_changes": False}


@pytest.mark.linux
def test_a_measurement_that_ran_before_others_says_so() -> None:
    """Its times are not those of a machine that was quiet."""
    assert record.priority(os.SCHED_OTHER) == record.priority(os.SCHED_IDLE) == []
    for policy in (os.SCHED_RR, os.SCHED_FIFO):
        (said,) = record.priority(policy)
        assert "before others" in said
