"""The arithmetic of the page's benchmark, and that its watching sees every token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page_latency
from benchmarks.harness import record


def test_the_figures_are_those_of_the_samples() -> None:
    """The median and the tail, in milliseconds."""
    figures = page_latency.summary([float(number) for number in range(1, 102)])
    assert figures == {"tokens": 101, "median": 51, "p95": 96, "most": 101}


@pytest.mark.parametrize(("median", "word"), [(19.9, "met"), (20.0, "missed")])
def test_the_verdict_follows_the_median(median: float, word: str) -> None:
    """Under twenty milliseconds."""
    assert f": {word} (" in str(page_latency.verdict({"median": median}))


@pytest.mark.slow
def test_every_token_is_seen_once_and_after_its_arrival(tmp_path: Path) -> None:
    """The whole program, on a few tokens."""
    command = [sys.executable, "-m", "benchmarks.page_latency", "--tokens", "20", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=record.ROOT, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == int(": missed (" in done.stdout), done.stderr
    written = json.loads((tmp_path / "page_latency.json").read_text())
    assert written["figures"]["tokens"] == 20
    assert all(milliseconds > 0 for milliseconds in written["milliseconds"])
    assert 0 < written["processor_ms"]["script"] < written["processor_ms"]["all"]
