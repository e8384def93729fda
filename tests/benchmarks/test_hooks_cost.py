"""The arithmetic and the records of the hooks' benchmark; the measuring itself is not repeated here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import hooks_cost
from benchmarks.harness import record


def samples(*latencies: float) -> hooks_cost.Samples:
    taken = hooks_cost.Samples()
    taken.add(list(latencies), sum(latencies))
    return taken


def test_what_is_added_is_the_difference_of_the_medians() -> None:
    """The bare route is what the others are compared with, in milliseconds."""
    measured = {name: samples(0.001, 0.001, 0.001) for name in hooks_cost.ROUTES}
    measured["GET /api/health/live"] = samples(0.001, 0.0015, 0.009)
    figures = hooks_cost.summary(measured)
    assert figures["GET /api/health/live"]["added_median_ms"] == pytest.approx(0.5)
    assert figures[hooks_cost.BARE]["requests_per_second"] == pytest.approx(1000)


def test_the_verdict_reports_a_missed_target() -> None:
    """The sentence follows the figures."""
    good = {name: {"added_median_ms": 0.4} for name in hooks_cost.ROUTES}
    bad = good | {"GET /api/health/live": {"added_median_ms": 1.4}}
    assert "met (0.40 ms" in str(hooks_cost.verdict({load.name: good for load in hooks_cost.LOADS}))
    assert "missed (1.40 ms" in str(hooks_cost.verdict({load.name: bad for load in hooks_cost.LOADS}))


def test_an_answer_without_a_length_is_refused() -> None:
    """A chunked answer would be timed wrongly."""
    assert hooks_cost.content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 17") == 17
    with pytest.raises(ValueError, match="without Content-Length"):
        hooks_cost.content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def test_a_record_names_machine_commit_and_command(tmp_path: Path) -> None:
    """Every figure comes with its origin."""
    facts = record.facts(["flask"])
    path = record.write("some", facts, {}, "Some figures", [record.table(("a", "b"), [("x", "1")])], tmp_path)
    text = path.read_text()
    assert all(str(facts[name]) in text for name in ("command", "cpu", "cores", "python", "date"))
    assert "| x | 1 |" in text
    assert json.loads((tmp_path / "some.json").read_text())["facts"] == facts
