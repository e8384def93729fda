"""Plots come from results files, on whatever machine has the library that draws."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from benchmarks import plot, record

PANEL = {"title": "t", "x": "clients", "y": "ms", "series": {"a": [[1, 2.0, 1.0, 3.0], [4, None, None, None]]}}


def test_a_plot_is_drawn_where_that_is_possible(tmp_path: Path) -> None:
    """Without the library the figures are written all the same."""
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"plot": [PANEL, {**PANEL, "series": {}, "target": 1.0}]}))
    drawn = plot.draw(path)
    assert (drawn is not None) == (find_spec("matplotlib") is not None)
    assert drawn is None or drawn.read_bytes().startswith(b"\x89PNG")


def test_a_record_shows_its_plot(tmp_path: Path) -> None:
    """The page names the picture that lies beside it, and none that does not."""
    facts = record.facts(["torch"])
    page = record.write("some", {"facts": facts, "plot": [PANEL]}, "Some figures", [], tmp_path).read_text()
    assert ("![Some figures](some.png)" in page) == (tmp_path / "some.png").exists()
    assert f"{facts['memory_gb']} GB of memory" in page
