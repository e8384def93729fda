"""The command that runs the parts on a card: a process each, within its minutes, and again for those that are left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.card import __main__ as card
from benchmarks.card.processes import ended_within
from benchmarks.card.record import UNFINISHED, Options, PartRecord, read_record


class Card:
    """Stands for the processes of the parts: each takes all of its time, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.errors = 0.0, dict.fromkeys(card.PARTS, "")
        self.ran: list[str] = []
        monkeypatch.setattr(card, "run_apart", self.run_apart)
        monkeypatch.setattr(card.time, "monotonic", lambda: self.now)

    def run_apart(self, name: str, options: Options, seconds: float) -> int:
        self.ran.append(name)
        self.now += seconds + 1.0
        PartRecord(name, card.found_here("CPU"), error=self.errors[name]).write(options.results)
        return bool(self.errors[name])


def command(folder: Path, *more: str) -> list[str]:
    return ["--device", "cpu", "--tiny", "--results", str(folder), *more]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


def test_three_commands_hold_all_parts(tmp_path: Path, parts: Card) -> None:
    """Within the half hour that a card may be lent for, though each part takes all of its time."""
    began = 0.0
    for expected in (card.LEFT, card.LEFT, 0):
        assert card.main(command(tmp_path)) == expected
        assert parts.now - began <= card.COMMAND_MINUTES * 60 + len(card.PARTS)
        began = parts.now
    assert sorted(parts.ran) == sorted(card.PARTS)
    assert parts.now <= 30 * 60


def test_what_is_wrong_stays_told_and_is_not_measured_again(tmp_path: Path, parts: Card) -> None:
    """Unless it is asked for; what was cut is."""
    parts.errors |= {"facts": "no driver", "rows": UNFINISHED}
    asked = command(tmp_path, "--parts", "facts,rows,graphs")
    assert card.main(asked) == card.WRONG
    assert card.main(asked) == card.WRONG
    assert parts.ran == ["facts", "rows", "graphs", "rows"]
    parts.errors |= {"facts": "", "rows": ""}
    assert card.main([*asked, "--again"]) == 0
    assert card.main(asked) == 0


def test_records_of_another_commit_or_card_count_for_nothing(tmp_path: Path, parts: Card) -> None:
    """The folder holds those of earlier releases."""
    for key in ("card", "commit"):
        PartRecord("facts", {**card.found_here("CPU"), key: "other"}, error="").write(tmp_path)
        assert card.main(command(tmp_path, "--parts", "facts")) == 0
    assert parts.ran == ["facts", "facts"]


HANGING = """
import os, subprocess, sys, time
from pathlib import Path
from benchmarks.card.record import Options, measure
def part(options):
    yield "table", {"row": 1}
    child = subprocess.Popen(["sleep", "1000"])
    Path(sys.argv[1]).write_text(str(child.pid))
    if sys.argv[3] == "crash":
        os.abort()
    time.sleep(1000)
measure("facts", part, Options("cpu", results=Path(sys.argv[2])), {"card": "CPU"})
"""


@pytest.mark.parametrize(("kind", "told"), [("hang", "stopped after"), ("crash", "its process ended with status -6")])
def test_a_part_that_hangs_or_crashes_says_so_and_leaves_nothing(
    kind: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are kept; the process that it started has ended."""
    pid, program = tmp_path / "pid", tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "$PROGRAM" {pid} {tmp_path} {kind}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PROGRAM", HANGING)
    monkeypatch.setattr(card.sys, "executable", str(program))
    limit = 0.0 if kind == "hang" else 60.0
    monkeypatch.setattr(card, "ended_within", lambda process, seconds: once_begun(process, pid, limit))
    assert card.run_apart("facts", Options("cpu", tiny=True, results=tmp_path), 60.0) != 0
    record = read_record(tmp_path, "facts")
    assert record is not None
    assert told in record.error
    assert record.tables == {"table": [{"row": 1}]}
    assert told in (tmp_path / "facts.md").read_text()
    assert ended(int(pid.read_text()))


def once_begun(process: subprocess.Popen[str], pid: Path, seconds: float) -> int | None:
    """Wait until the process has started its child, then as long as told."""
    while process.poll() is None and not (pid.exists() and pid.read_text()):
        time.sleep(0.01)
    return ended_within(process, seconds)


def ended(pid: int) -> bool:
    """Return whether a process is gone within a minute; one whose parent has gone may stay as a zombie."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(60) is None
    except psutil.NoSuchProcess:
        return True


def test_a_part_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind it run."""
    monkeypatch.setitem(sys.modules, "benchmarks.card.rows", None)
    assert card.main(command(tmp_path, "--parts", "rows,facts", "--here")) == 1
    written = {name: json.loads((tmp_path / f"{name}.json").read_text())["error"] for name in ("rows", "facts")}
    assert written["facts"] == ""
    assert "benchmarks.card.rows" in written["rows"]
