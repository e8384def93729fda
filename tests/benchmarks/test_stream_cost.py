"""The benchmark of streams on a few events."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import stream_cost


def test_every_part_of_an_event_is_measured(tmp_path: Path, monkeypatch) -> None:
    """Each measure has a cost for each round; the exit status follows the target."""
    monkeypatch.setattr(stream_cost, "TARGET_US", 1e9)
    assert stream_cost.main(["--events", "50", "--rounds", "2", "--results", str(tmp_path)]) == 0
    costs = json.loads((tmp_path / "stream_cost.json").read_text())["costs_us"]
    assert list(costs) == ["building", "arguments", "reasoning", "messages", "writing", "both", "waking"]
    assert all(cost > 0 for rounds in costs.values() for cost in rounds)
    monkeypatch.setattr(stream_cost, "TARGET_US", 0.0)
    assert stream_cost.main(["--events", "50", "--rounds", "1"]) == 1
