"""The words of verdicts, and the exit status that follows from them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.harness.targets import Word, exit_status, judged

ROOT = Path(__file__).parents[3]


def test_a_verdict_tells_target_word_and_figure() -> None:
    """In one sentence."""
    assert str(judged("under 1 ms", True, "0.88 ms")) == "Target: under 1 ms: met (0.88 ms)."
    assert str(judged("under 1 ms", False, "1.88 ms")) == "Target: under 1 ms: missed (1.88 ms)."


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 0),
        ([Word.MET, Word.NOT_MEASURED], 0),
        ([Word.MET, Word.MISSED], 1),
        ([Word.NOT_COMPARABLE, Word.MET], 1),
    ],
)
def test_one_target_that_is_not_met_decides_the_status(words: Sequence[Word], status: int) -> None:
    """What was left out decides nothing."""
    assert exit_status(words) == status


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("missing", "status"), [("", 0), ("benchmarks.offline", 2), ("benchmarks.hooks_cost", 2)], ids=str
)
def test_make_bench_fails_where_a_target_is_missed(missing: str, status: int, tmp_path: Path) -> None:
    """Whichever of its programs misses one; the others run nevertheless."""
    python = tmp_path / "python"
    ran = tmp_path / "ran"
    python.write_text(f'#!/bin/sh\necho "$2" >>{ran}\ntest "$2" != "{missing}"\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "-s", "bench", f"PYTHON={python}"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert ran.read_text().splitlines()[-2:] == ["benchmarks.offline", "benchmarks.hooks_cost"]
