"""What a program of the proof reports, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import record
from benchmarks.proof import __main__ as proof
from benchmarks.proof.report import Finding, Report, as_if_asked, percentile, rows, summary
from benchmarks.proof.size import LONG, SHORT, Size


@pytest.mark.parametrize(
    ("measured", "at_least", "holds"),
    [(1.0, False, True), (1.1, False, False), (1.0, True, True), (0.9, True, False), (None, False, False)],
)
def test_a_figure_holds_on_its_side_of_the_limit(measured: float | None, at_least: bool, holds: bool) -> None:
    """At the limit a promise is kept; what could not be measured is broken."""
    assert Finding("x", measured, 1.0, at_least).holds is holds


def test_a_figure_that_is_no_number_does_not_hold() -> None:
    """NaN is on no side of a limit."""
    assert not Finding("x", float("nan"), 1.0).holds


def test_what_was_lost_is_counted_and_named() -> None:
    """Each loss with how often; one is enough to break the promise."""
    report = Report("soak", "nothing grows")
    for trouble in (None, "cut off", None, "cut off", "no answer"):
        report.count(trouble)
    assert (report.tried, report.lost, report.holds) == (5, 3, False)
    assert summary([report]) == [("soak", "nothing grows", "5", "3", "0%", "cut off (2); no answer (1)")]


def test_percentiles_leave_out_what_is_unknown() -> None:
    """The highest is the 100th; there is none of nothing."""
    assert percentile([3.0, None, 1.0, 2.0], 100) == 3.0
    assert percentile([3.0, None, 1.0, 2.0], 0) == 1.0
    assert percentile([None], 50) is None


def test_nothing_tried_is_no_promise_kept() -> None:
    """A program that was given nothing to try, or whose tests were all skipped."""
    report = Report("faults", "")
    assert not report.holds
    report.count(None)
    assert report.holds


def test_a_stall_counts_for_everybody_who_would_have_asked_meanwhile() -> None:
    """One long wait among many short ones, of one who asks again only after the answer."""
    waits = [0.01] * 997 + [0.21]
    assert percentile(waits, 99) == 0.01
    assert as_if_asked(waits, 0.05)[-5:] == pytest.approx([0.21, 0.16, 0.11, 0.06, 0.01])
    assert percentile(as_if_asked([0.01] * 10_000 + [60.0] * 9, 0.05), 99.9) > 1


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two programs instead of the real ones, and a document of their own that is returned."""

    def good(size: Size) -> Report:
        report = Report("good", f"holds for {size.seconds:g} s", tried=2)
        report.check("time, ms", 7, 50)
        return report

    def broken(size: Size) -> Report:
        raise ValueError("no server")

    document = tmp_path / "RELIABILITY.md"
    document.write_text(f"# Head\n\n{proof.BEGIN}\n\nbefore this\n\n{proof.END}\n\nTail\n")
    monkeypatch.setattr(proof, "PROGRAMS", {"good": good, "broken": broken})
    monkeypatch.setattr(proof, "RELIABILITY", document)
    return document


def test_the_long_form_writes_the_document(written: Path) -> None:
    """Between the markers stands what was tried now, around them what stood there; a broken promise is the status."""
    assert proof.main(["--results", str(written.parent)]) == 1
    text = written.read_text()
    assert text.startswith(f"# Head\n\n{proof.BEGIN}\n\nTried ")
    assert text.endswith(f"{proof.END}\n\nTail\n")
    assert "before this" not in text
    assert f"holds for {LONG.seconds:g} s | 2 | 0 |" in text
    assert "ValueError: no server (1)" in text
    assert (written.parent / "proof.json").exists()


def test_the_document_says_what_was_not_committed(written: Path) -> None:
    """The commit alone is not what was tried then."""
    facts = record.facts([]) | {"commit": "c" * 40}
    for changed in (True, False):
        text = proof.written(written.read_text(), facts | {"uncommitted_changes": changed}, [])
        assert ("at commit cccccccccccc with uncommitted changes, on" in text) is changed


@pytest.mark.parametrize("options", [["--short"], ["good"]])
def test_a_trial_does_not_write_the_document(written: Path, options: list[str]) -> None:
    """Figures of a short form, or of one program, are not those of the whole."""
    proof.main([*options, "--results", str(written.parent)])
    assert "before this" in written.read_text()
    assert [path.name for path in sorted(written.parent.glob("proof*"))] == ["proof-trial.json", "proof-trial.md"]


def test_options_change_the_size(written: Path) -> None:
    """A short form with one figure of one's own."""
    size = proof.size_of(proof.arguments(["--short", "--requests", "7"]))
    assert (size.requests, size.seconds) == (7, SHORT.seconds)


def test_the_document_has_its_markers() -> None:
    """The file of the tree is one that the program can write to."""
    text = proof.RELIABILITY.read_text(encoding="utf-8")
    assert text.count(proof.BEGIN) == text.count(proof.END) == 1


def test_figures_become_rows() -> None:
    """A row a figure, with its program."""
    report = Report("good", "")
    report.check("time, ms", 7, 50)
    report.check("goodput", 0.5, 0.9, at_least=True)
    assert rows([report]) == [
        ("good", "time, ms", "7", "<= 50", "yes"),
        ("good", "goodput", "0.5", ">= 0.9", "**NO**"),
    ]
    assert record.RESULTS.name == "results"
