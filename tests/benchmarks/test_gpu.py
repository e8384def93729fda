"""The GPU benchmark tried without a GPU: its logic on tiny shapes, its arithmetic on given figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.harness.gpu_report import Demand, limits, together, verdicts
from benchmarks.harness.shapes import shapes


def figures(text: float, vision: float, both: tuple[float, float], clients: int = 1) -> dict[str, Any]:
    """Return figures for one number of clients: tokens per second alone and together."""

    def speed(value: float) -> dict[str, float]:
        return {"tokens_per_second": value, "failures": 0}

    return {
        f"text, c={clients}": {"text": speed(text)},
        f"vision, c={clients}": {"vision": speed(vision)},
        f"both, c={clients}": {"text": speed(both[0]), "vision": speed(both[1])},
    }


def test_without_cuda_it_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, before a model is created."""
    assert gpu.main([], cuda_available=lambda: False) == 2
    assert "No CUDA device" in capsys.readouterr().err


@pytest.mark.slow
def test_it_measures_each_model_alone_and_both_together(tmp_path: Path) -> None:
    """The whole program on tiny shapes."""
    status = gpu.main(["--device", "cpu", "--tiny", "--c", "1,2", "--results", str(tmp_path)])
    assert status == int("| missed |" in (tmp_path / "gpu.md").read_text())
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert list(written["figures"]) == [f"{kind}, c={c}" for kind in ("text", "vision", "both") for c in (1, 2)]
    assert set(written["figures"]["both, c=2"]) == {"text", "vision"}
    assert all(own["failures"] == 0 for models in written["figures"].values() for own in models.values())
    assert written["figures"]["text, c=1"]["text"]["tokens_per_second"] > 0
    assert (written["skipped"], written["bandwidth"] > 0) == ([], True)


@pytest.mark.slow
def test_what_does_not_fit_into_the_time_is_skipped_and_listed(tmp_path: Path) -> None:
    """It ends in time with the results so far, and lists the rest."""
    options = ["--device", "cpu", "--tiny", "--c", "1", "--minutes", "0", "--results", str(tmp_path)]
    assert gpu.main(options) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"] == {}
    assert "text, c=1, vision, c=1, both, c=1" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_a_model_that_cannot_start_ends_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache for a million clients fits nowhere: one sentence and status 1."""
    options = ["--device", "cpu", "--tiny", "--c", "10000000", "--results", str(tmp_path)]
    assert gpu.main(options) == 1
    assert "does not fit" in capsys.readouterr().err


def test_the_limit_is_what_the_memory_allows() -> None:
    """15 GB of weights at 3 TB/s are 5 ms a step; the rows share them, each with its cache."""
    most = limits([Demand("text", 15_000_000_000, 30_000_000.0)], [1, 100], 3e12)
    assert most["text, c=1"] == pytest.approx(1 / 0.00501)
    assert most["text, c=100"] == pytest.approx(100 / 0.006)


def test_both_together_are_compared_with_alternation() -> None:
    """Half of each alone would be 1."""
    assert together(figures(100, 200, (50, 100)), 1) == pytest.approx(1.0)
    assert together(figures(100, 200, (40, 80)), 1) == pytest.approx(0.8)
    assert together({}, 1) is None


def test_the_verdicts_follow_the_figures() -> None:
    """Only measured targets have a verdict."""
    measured = figures(140, 60, (70, 30)) | figures(7100, 1, (1, 1), clients=64)
    most = {"text, c=1": 200.0, "vision, c=1": 100.0}
    assert [own.word for own in verdicts(measured, most, [1], "NVIDIA H100 PCIe")] == ["met", "missed", "met", "met"]
    assert verdicts({}, most, [1], "NVIDIA H100 PCIe") == []


def test_the_target_of_a_card_is_judged_on_that_card() -> None:
    """On another one its figure is told, and nothing is said of it."""
    measured = figures(7100, 1, (1, 1), clients=64)
    for card, word in (("NVIDIA H100 80GB HBM3", "met"), ("NVIDIA H200", "not measured"), ("a CPU", "not measured")):
        (own,) = verdicts(measured, {}, [], card)
        assert own.word == word
        assert "7100" in own.found
    slow = figures(6900, 1, (1, 1), clients=64)
    assert [own.word for own in verdicts(slow, {}, [], "NVIDIA H100 PCIe")] == ["missed"]


def test_failed_requests_leave_nothing_to_judge() -> None:
    """An engine that refuses most of them is not measured by the rest."""
    measured = figures(140, 90, (70, 45))
    measured["vision, c=1"]["vision"]["failures"] = 2
    found = verdicts(measured, {"text, c=1": 200.0, "vision, c=1": 100.0}, [1], "a CPU")
    assert [own.word for own in found] == ["met", "not comparable", "not comparable"]


def test_the_shapes_are_those_of_the_real_models() -> None:
    """Bytes of keys and values a token, as published: 147 KB and 57 KB."""
    text, vision = shapes(tiny=False)
    assert (text.kv_bytes_per_token, vision.kv_bytes_per_token) == (147_456, 57_344)
