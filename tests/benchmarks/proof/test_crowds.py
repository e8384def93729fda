"""The requests of others may take a quarter longer beside a crowd, and what the one that crowds got is told."""

from __future__ import annotations

import pytest

from benchmarks.proof.crowds import BATCHES, _compare
from benchmarks.proof.fairness import _had
from benchmarks.proof.report import Report
from benchmarks.proof.size import LONG, SHORT
from benchmarks.proof.traffic import Answer
from config import load_settings


def test_a_crowd_is_more_than_there_are_threads() -> None:
    """Else whoever takes a thread each leaves some, and the promise was not tried."""
    threads = load_settings({"DEVICE": "cpu"}, None).server.threads
    assert threads < min(BATCHES, SHORT.connections, LONG.connections)


@pytest.mark.parametrize(("beside", "holds"), [(1.25, True), (1.3, False), (3.0, False)])
def test_others_may_wait_a_quarter_longer(beside: float, holds: bool) -> None:
    """Beside slow grammars and beside batches."""
    report = Report("crowds", "", tried=1)
    _compare(report, "one", "a request", [Answer(200, total=1.0)], [Answer(200, total=beside)])
    assert (report.holds, report.notes["one_p95_s"]) == (holds, [1.0, beside])


def test_nothing_measured_is_no_promise_kept() -> None:
    """Where there are no answers, alone or beside."""
    report = Report("crowds", "", tried=1)
    _compare(report, "one", "a request", [Answer(200, total=1.0)], [])
    assert not report.holds


def test_what_the_greedy_client_got_is_told() -> None:
    """What was finished, and how all else ended."""
    answers = [Answer(200, total=2.0, complete=True), *[Answer(503, code="overloaded")] * 2, Answer(trouble="reset")]
    assert _had(answers) == {
        "sent": 4,
        "finished": 1,
        "unfinished": {"503 overloaded": 2, "0 reset": 1},
        "total_p95_s": 2.0,
    }
