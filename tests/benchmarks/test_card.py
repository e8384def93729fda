"""The program for a card rehearsed without one: every part runs on tiny shapes and writes what it measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.card import __main__ as card
from benchmarks.card.defaults import formats_of
from benchmarks.card.profile import Operation, Window
from benchmarks.card.record import Options, Rows, measure
from benchmarks.harness.record import ROOT
from engine import engine_core
from tests.system_programs import unmeasured

ORIGIN = {"card": "CPU"}
pytestmark = pytest.mark.no_cover  # what it measures has tests of its own


def rehearse(part: str, folder: Path, where: tuple[str, ...] = ("--here",)) -> dict[str, list[dict[str, object]]]:
    """Run one part on the CPU, however busy that is; return its tables as written."""
    options = ["--tiny", "--device", "cpu", "--minutes", "60", "--command-minutes", "600", *where]
    assert card.main([*options, "--parts", part, "--results", str(folder)]) == 0
    assert (folder / f"{part}.md").read_text().startswith(f"# {part}\n\nMeasured in ")
    tables: dict[str, list[dict[str, object]]] = json.loads((folder / f"{part}.json").read_text())["tables"]
    return tables


def test_a_part_that_raises_keeps_what_it_measured(tmp_path: Path) -> None:
    """The rows before the error are written, with the error; the caller goes on."""

    def part(options: Options) -> Rows:
        yield "table", {"row": 1}
        raise RuntimeError("out of memory")

    assert measure("broken", part, Options("cpu", results=tmp_path), ORIGIN).error == "RuntimeError: out of memory"
    written = json.loads((tmp_path / "broken.json").read_text())
    assert (written["tables"], written["error"]) == ({"table": [{"row": 1}]}, "RuntimeError: out of memory")
    assert "out of memory" in (tmp_path / "broken.md").read_text()


def test_a_part_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    """A part without end is cut at its first row past the limit, which it keeps."""

    def part(options: Options) -> Rows:
        while True:
            yield "table", {"row": 1}

    assert measure("endless", part, Options("cpu", minutes=0.0, results=tmp_path), ORIGIN).tables == {
        "table": [{"row": 1}]
    }


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs, with the names."""
    with pytest.raises(SystemExit):
        card.main(["--parts", "facts,speed"])
    assert "no such part: speed" in capsys.readouterr().err


def test_facts_name_the_versions_and_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the figures of the other parts depend on, which run with the allocator of the service."""
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    tables = rehearse("facts", tmp_path, where=())
    assert {"name": "allocator", "value": "expandable_segments:True"} in tables["facts"]
    assert {"torch", "triton", "gcc", "Python.h", "cudnn_sdp_enabled"} <= {row["name"] for row in tables["facts"]}
    assert float(str(tables["bandwidth"][0]["GB/s"])) > 0


@pytest.mark.slow
def test_attention_is_timed_for_every_backend(tmp_path: Path) -> None:
    """A backend that refuses a shape is listed with its reason."""
    rows = rehearse("attention", tmp_path)["SDPA, ms"]
    assert {row["backend"] for row in rows} == {"chosen by torch", "cudnn", "flash", "efficient", "math"}
    assert all("refused" in row or float(str(row["second to tenth, median"])) > 0 for row in rows)
    assert "refused" not in rows[0]


@pytest.mark.slow
def test_products_are_summed_over_a_step(tmp_path: Path) -> None:
    """The sum counts every layer."""
    tables = rehearse("linear", tmp_path)
    us = {row["weight"]: row["us"] for row in tables["products"] if (row["tokens"], row["variant"]) == (1, "default")}
    step = next(row for row in tables["all products of a step"] if row["model"] == "8B" and row["tokens"] == 1)
    expected = 2 * float(str(us["8B qkv"])) + float(str(us["8B head"]))
    assert float(str(step["ms"])) * 1e3 == pytest.approx(expected)
    assert float(str(tables["adding in place"][0]["error, added in place"])) < 1e-4


@pytest.mark.slow
def test_products_of_few_tokens_are_compared_with_cublas(tmp_path: Path) -> None:
    """Every tiles is right and timed, the fastest is named, and a step counts every layer."""
    pytest.importorskip("triton")
    tables = rehearse("skinny", tmp_path)
    assert all(float(str(row["us"])) > 0 and float(str(row["error"])) < 1e-5 for row in tables["products"])
    best = [row for row in tables["best"] if row["T"] == 1 and str(row["weight"]).startswith("8B")]
    assert [row["weight"] for row in best] == ["8B qkv", "8B head"]
    least = [min(float(str(row["us"])), float(str(row["cuBLAS us"]))) for row in best]
    assert float(str(tables["step"][0]["best ms"])) * 1e3 == pytest.approx(2 * least[0] + least[1])


@pytest.mark.slow
def test_products_of_packed_weights_are_compared_with_cublas(tmp_path: Path) -> None:
    """Every format is exact in its kernel and timed, and a step counts every layer."""
    pytest.importorskip("triton")
    tables = rehearse("packed", tmp_path)
    ours = [row for row in tables["products"] if row["tiles"] != "cuBLAS"]
    assert len(ours) == len(tables["best"]) == 2 * 2 * 2 + 2
    # FP8 rounds the tokens too, and the interpreter not to the nearest.
    most = {"int8": 1e-5, "int4": 1e-5, "fp8": 0.15}
    assert all(float(str(row["us"])) > 0 and float(str(row["error"])) < most[str(row["format"])] for row in ours)
    assert [(row["format"], row["T"]) for row in tables["all products of a step"]] == [
        (name, tokens) for name in most for tokens in (1, 4)
    ]


@pytest.mark.slow
def test_the_kernels_of_rows_are_timed(tmp_path: Path) -> None:
    """Each kernel, for both models."""
    pytest.importorskip("triton")
    rows = rehearse("rows", tmp_path)["rows"]
    kernels = {"rms_norm", "qk_norm_rope_store", "silu_and_mul", "rotary_tables", "embed_tokens", "take_rows"}
    assert {(row["model"], row["kernel"]) for row in rows} == {
        (model, name) for model in ("8B", "7B") for name in kernels
    }
    assert all(float(str(row["us"])) > 0 for row in rows)


@pytest.mark.slow
def test_sampling_is_timed_for_each_kind_of_row(tmp_path: Path) -> None:
    """On logits of every shape, beside torch where it does the same."""
    pytest.importorskip("triton")
    rows = rehearse("sampling", tmp_path)["sampling"]
    assert len(rows) == 3 * 6
    assert all(float(str(row["us"])) > 0 for row in rows)
    assert sum("torch us" in row for row in rows) == 3


def test_launching_is_timed(tmp_path: Path) -> None:
    """One by one and as a graph."""
    assert rehearse("graphs", tmp_path)["launching"][0]["kernels"] == 150


@pytest.fixture
def card_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest's process has no other packages than those that a card needs."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p tests.benchmarks.card_packages")


def listed(part: str, log: Path) -> set[tuple[str, str]]:
    """Rehearse a part that runs tests; return the files and names of those that it found."""
    (rows,) = rehearse(part, log.parent).values()
    assert "exit status 0" in [row["line"] for row in rows]
    return set(re.findall(r"test_(\w+)\.py::(\w+)", log.read_text()))


@pytest.mark.slow
def test_the_tests_on_a_gpu_can_be_collected_apart(tmp_path: Path, card_packages: None) -> None:
    """Without the settings of the project, its conftest and the web's packages."""
    files = {file for file, _ in listed("gpu_tests", tmp_path / "tests_gpu.log")}
    assert files == {"compilation", "cuda_engine", "graphs", "serving"}


@pytest.mark.slow
@pytest.mark.linux
def test_every_test_of_a_kernel_runs_on_the_card(tmp_path: Path, card_packages: None) -> None:
    """Slow as all of them are in the interpreter; and none of those that only compile."""
    found = listed("kernel_tests", tmp_path / "tests_engine_model_cuda.log")
    kernels = {"attention", "ends", "fp8", "gemm", "packed_gemm", "rows", "sampling", "skinny"}
    assert {file for file, _ in found} == kernels
    assert not any("compile" in name for _, name in found)


@pytest.mark.slow
def test_the_parts_need_no_package_that_is_not_named() -> None:
    """All of them but the one that starts the service."""
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    named = re.search(r"no web packages: (.*?) are\s", readme, re.DOTALL)
    assert named
    assert all(
        package in named[1]
        for package in ("torch", "Triton", "transformers", "llguidance", "psutil", "Pillow", "pytest")
    )
    parts = [part for part in card.PARTS if part != "defaults"]
    program = (
        "import importlib, sys, tests.benchmarks.card_packages\nfor part in sys.argv[1:]: importlib.import_module(part)"
    )
    command = [sys.executable, "-c", program, *(f"benchmarks.card.{part}" for part in parts)]
    subprocess.run(command, cwd=ROOT, env=unmeasured(), check=True, timeout=600)


@pytest.mark.slow
def test_load_of_random_lengths(tmp_path: Path) -> None:
    """The text model alone, with each number of clients."""
    tables = rehearse("load", tmp_path)
    assert [row["load"] for row in tables["load"]] == ["c=1", "c=2"]
    assert all(row["failed"] == 0 and float(str(row["tokens/s"])) > 0 for row in tables["load"])


@pytest.mark.slow
def test_a_start_at_the_default_settings(tmp_path: Path) -> None:
    """Both models start as the service starts them, and answer."""
    tables = rehearse("defaults", tmp_path)
    assert tables["start"][0]["ready"] == "True"
    assert [row["failed"] for row in tables["both asked"]] == [0, 0]
    assert all(row["full contexts"] >= 1 for row in tables["models"])


def test_a_card_too_small_for_both_in_half_precision_starts_them_in_fewer_bits() -> None:
    """An L4, a 4090 and an A10 have 24 GB; an A6000 48."""
    assert [formats_of(size) for size in (None, 23.6, 25.3, 51.0, 150.1)] == [
        ("none",),
        *[("int8", "int4")] * 2,
        *[("none",)] * 2,
    ]


@pytest.mark.slow
def test_gaps_beside_a_long_row(tmp_path: Path) -> None:
    """Short rows alone, beside the long one and alone again, which no error ends; streaming is as before."""
    tables = rehearse("long_row", tmp_path)
    assert [row["rows"] for row in tables["short rows"]] == ["alone", "beside one of 80 tokens", "alone again"]
    assert all(row["failed"] == 0 for row in tables["short rows"] + tables["the long row"])
    assert engine_core.STREAM_INTERVAL > 0


def test_a_profile_counts_what_is_in_its_window() -> None:
    """Operations are cut where it begins and ends, and two at once are one time: a step is all that it is made of."""
    ms = 1_000_000
    ran = [(-3, 2), (-1, 2), (2, 2), (3, 3), (7, 0.01), (7.02, 0.98), (9, 4), (11, 1)]
    operations = [Operation(f"kernel {start}", int(start * ms), int(length * ms)) for start, length in ran]
    summary = Window.of(operations, 2, 0, 10 * ms).summary()
    figures = {name.removesuffix(", ms a step"): value for name, value in summary.items()}
    assert figures["operations a step"] == 3
    assert (figures["ms a step"], figures["busy"]) == (5.0, pytest.approx((1 + 4 + 0.01 + 0.98 + 1) / 2))
    assert figures["of it two operations at once"] == pytest.approx(0.5)
    assert figures["short gaps"] == pytest.approx(0.005)
    assert figures["waiting for the host"] == pytest.approx((1 + 1 + 1) / 2)


def test_the_profiler_has_the_clock_of_the_window() -> None:
    """Its events have the time since 1970, in nanoseconds."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        began = time.time_ns()
        torch.ones(8).cumsum(0)
        ended = time.time_ns()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    (found,) = (event for event in events if event.name() == "aten::cumsum")
    slack = 1_000_000  # a step takes some milliseconds
    assert began - slack <= found.start_ns() <= found.end_ns() <= ended + slack


@pytest.mark.slow
def test_the_profile_of_three_loads(tmp_path: Path) -> None:
    """Each has its steps, and the functions of the engine's thread."""
    tables = rehearse("profile", tmp_path)
    for load in ("1 row", "2 rows", "2 rows and prompts"):
        assert int(str(tables[f"{load}: steps"][0]["steps"])) > 0
        functions = [str(row["function"]) for row in tables[f"{load}: the engine's thread"]]
        assert "engine/engine_core.py:EngineCore.step" in functions


@pytest.mark.slow
def test_both_models_at_once_and_many_sizes_of_images(tmp_path: Path) -> None:
    """The first answers while the second starts; nothing fails and every logit is finite."""
    tables = rehearse("both", tmp_path)
    assert int(str(tables["start"][1]["answers of the first model meanwhile"])) > 0
    assert tables["start"][1]["failed"] == 0
    assert [row["load"] for row in tables["load"]] == [
        "text, c=2: text", "vision, c=2: vision", "both, c=2: text", "both, c=2: vision"
    ]  # fmt: skip
    assert [row["rows"] for row in tables["gaps"]] == ["text: text", "vision: vision", "both: text", "both: vision"]
    assert all(int(str(row["gaps"])) > 0 and float(str(row["longest, ms"])) > 0 for row in tables["gaps"])
    assert tables["images of any size"] == [{"images": 3, "failed": 0, "logits that are not finite": 0}]


@pytest.mark.slow
@pytest.mark.linux
def test_our_attention_is_compared_with_torch_and_tuned(tmp_path: Path) -> None:
    """Every row says how far the result is from torch's; the kernels run in Triton's interpreter."""
    tables = rehearse("paged_attention", tmp_path)
    assert {row["model"] for row in tables["paged attention"]} == {"8B", "7B"}
    assert all(float(str(row["error"])) < 0.01 for row in tables["paged attention"] + tables["tuning"])


@pytest.mark.slow
def test_attention_of_few_rows_is_compared_by_its_settings(tmp_path: Path) -> None:
    """The last rows name the fastest settings of each model and case beside the defaults."""
    pytest.importorskip("triton")
    tables = rehearse("few_rows", tmp_path)
    assert [(row["model"], row["case"]) for row in tables["best"]] == [
        (model, case) for model in ("8B", "7B") for case in ("1 of 300", "1 of 2k")
    ]
    assert all(0 < float(str(row["us"])) <= float(str(row["default us"])) for row in tables["best"])


@pytest.mark.slow
def test_flat_steps_are_compared_with_eager_launches(tmp_path: Path) -> None:
    """Each number of tokens that has a graph; without a card both are the same launches."""
    pytest.importorskip("triton")
    tables = rehearse("flat_steps", tmp_path, where=())
    assert [row["tokens"] for row in tables["steps"]] == [1, 2, 4, 8, 16]
    assert all(row["difference"] == 0 and row["finite"] == "True" for row in tables["steps"])
    assert tables["capturing"][0]["graphs"] == 5
