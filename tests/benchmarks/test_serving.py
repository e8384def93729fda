"""The serving benchmark end to end against a scripted server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.harness.http_client import CHAT
from tests.benchmarks.harness.scripted_server import PIECES, scripted, stream


def test_the_command_measures_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Closed and open loop end to end: a table on the terminal, everything in the file."""
    with scripted(200, stream()) as server:
        url = f"{server.address}/v1{CHAT}"
        options = ["--c", "1,2", "--n", "4", "--rate", "50", "--seconds", "0.2", "--results", str(tmp_path)]
        assert serving.main([url, "--model", "avibe", *options]) == 0
    written = json.loads((tmp_path / "serving.json").read_text())
    closed = written["figures"]["c=2"]
    assert list(written["figures"]) == ["c=1", "c=2", "50/s"]
    assert (closed["failures"], closed["tokens"]) == (0, closed["requests"] * len(PIECES))
    assert written["facts"]["commit"]
    assert "| c=2 |" in capsys.readouterr().out


def test_a_load_that_failed_whole_ends_with_a_status(tmp_path: Path) -> None:
    """A script that runs the benchmark can detect it."""
    with scripted(429, b"{}") as server:
        url = f"{server.address}/v1{CHAT}"
        assert serving.main([url, "--c", "1", "--seconds", "0", "--results", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "serving.json").read_text())["figures"]["c=1"]["errors"] == {"status 429": 1}
