"""A flood without refusals is none: the figure of what is missing breaks its promise."""

from __future__ import annotations

import pytest

from benchmarks.proof.overload import Load, _Floods, _judge
from benchmarks.proof.report import Report
from benchmarks.proof.traffic import Answer

SERVED = Answer(200, head=0.01, first=0.01, total=0.1, whole=True, complete=True)
REFUSED = Answer(503, head=0.01, retry_after=True, whole=True, code="overloaded")
UNANSWERED = Answer(trouble="TimeoutError")  # of a body that was read, since there was room


def judged(times: int, answers: list[Answer], large: list[Answer]) -> Report:
    floods = _Floods([Load(answers, large, seconds=1.0)], [1.0], [1.0], probes=[0.01])
    report = Report("overload", "")
    _judge(report, times, floods, full_first=0.01)
    return report


@pytest.mark.parametrize(
    ("times", "answers", "large", "holds"),
    [
        (10, [SERVED, REFUSED], [REFUSED, UNANSWERED], True),
        (10, [SERVED], [REFUSED], False),
        (10, [SERVED, REFUSED], [UNANSWERED], False),
        (2, [SERVED], [UNANSWERED], True),
    ],
)
def test_ten_times_the_capacity_is_refused(times: int, answers: list[Answer], large: list[Answer], holds: bool) -> None:
    """At twice the capacity there may be room for all that is tried in a moment."""
    assert judged(times, answers, large).holds is holds


def test_who_was_admitted_and_cut_off_was_lost() -> None:
    """Whatever the goodput."""
    report = judged(2, [SERVED, Answer(200, head=0.01, trouble="IncompleteReadError")], [])
    assert report.losses == {"2x: admitted and then IncompleteReadError": 1}
