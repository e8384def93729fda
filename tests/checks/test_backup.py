"""What is told of the last backup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checks.backup import BackupStatus, check_backup, read_status
from checks.finding import State

HOUR, DAY, NOW = 3600.0, 86400.0, 1_000_000_000.0
FRESH = {"created": NOW - HOUR, "tested": NOW - DAY, "size": 1000, "failed": ""}


@pytest.mark.parametrize(
    ("noted", "state"),
    [
        (FRESH, State.OK),
        (FRESH | {"created": NOW - 49 * HOUR}, State.OK),
        (FRESH | {"created": NOW - 51 * HOUR}, State.WARNING),
        (FRESH | {"tested": NOW - 17 * DAY}, State.WARNING),
        (FRESH | {"failed": "no room"}, State.FAILED),
        ({}, State.WARNING),
    ],
)
def test_a_backup_is_as_old_as_it_should_be(tmp_path: Path, noted: dict[str, object], state: State) -> None:
    """Two that are left out are a warning, one that failed is a failure."""
    file = tmp_path / "status.json"
    file.write_text(json.dumps(noted))
    assert check_backup(file, NOW).state is state


def test_without_a_note_there_is_nothing_to_warn_of(tmp_path: Path) -> None:
    """As in a container, whose volume the operator backs up."""
    assert read_status(tmp_path / "none.json") is None
    assert check_backup(tmp_path / "none.json").state is State.OFF


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"created": "x"}', '{"created": null}'])
def test_a_note_that_cannot_be_read_is_a_failure(tmp_path: Path, text: str) -> None:
    """It is told, and fails no scrape."""
    file = tmp_path / "status.json"
    file.write_text(text)
    status = read_status(file)
    assert isinstance(status, BackupStatus)
    assert status.failed
    assert check_backup(file).state is State.FAILED
