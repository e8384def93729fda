"""The injected faults of the test suite, again and again: each one ends typed, and the next request works."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from benchmarks.harness import record
from benchmarks.proof.report import Report
from benchmarks.proof.size import Size

FOLDER = "tests/faults"
OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) (\S+)", re.MULTILINE)


def run(size: Size) -> Report:
    """Run the tests of faults `rounds` times."""
    report = Report("faults", "a fault at any point ends typed, the next request works, and nothing is left")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", FOLDER]
    for _ in range(size.rounds):
        done = subprocess.run(command, cwd=record.ROOT, env=os.environ, capture_output=True, text=True, check=False)
        outcomes = OUTCOME.findall(done.stdout)
        for outcome, test in outcomes:
            report.count(None if outcome == "PASSED" else test.rpartition("::")[2])
        if not outcomes:
            report.count("the tests could not be run")
    return report
