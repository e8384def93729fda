"""What goes wrong on a card is told: in the record, by the exit status, and without a loss of what comes after it."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import gpu
from benchmarks.card import __main__ as card
from benchmarks.card import aims, both, defaults, engines, few_rows, flat_steps, gpu_tests, long_row, packed, skinny
from benchmarks.card.processes import ended_within
from benchmarks.card.record import PROBLEMS, Options, Rows, measure, read_record, told, told_if_none_ran
from benchmarks.harness.shapes import shapes
from engine.errors import ModelError

pytestmark = pytest.mark.no_cover  # what it measures has tests of its own

TINY = Options("cpu", tiny=True)
FAILING = "import pytest\n@pytest.mark.gpu\ndef test_a_card():\n    assert False\n"


def wrong(part: str, folder: Path) -> str:
    """Run a part that goes wrong on the CPU; return what its record says."""
    options = ["--tiny", "--device", "cpu", "--minutes", "60", "--here", "--results", str(folder)]
    assert card.main([*options, "--parts", part]) == 1
    error: str = json.loads((folder / f"{part}.json").read_text())["error"]
    assert error in (folder / f"{part}.md").read_text()
    return error


def test_a_problem_is_told_and_the_part_goes_on(tmp_path: Path) -> None:
    """Its rows stay as they are; those after it are measured."""

    def part(options: Options) -> Rows:
        yield "table", {"row": 1}
        yield engines.problem("one is wrong")
        yield "table", {"row": 2}

    record = measure("wrong", part, replace(TINY, results=tmp_path), {})
    assert record.error == "one is wrong"
    assert record.tables["table"] == [{"row": 1}, {"row": 2}]
    assert read_record(tmp_path, "wrong") == record


def test_a_failing_test_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pytest's exit status."""
    (tmp_path / "test_failing.py").write_text(FAILING)
    monkeypatch.setattr(gpu_tests, "ONLY_PLANNED", ())
    options = replace(TINY, minutes=60.0, results=tmp_path / "results")
    record = measure("tests", lambda own: gpu_tests.run_tests(str(tmp_path), str(tmp_path), "gpu", own), options, {})
    assert record.error.endswith("exit status 1")
    assert any("FAILED" in str(row["line"]) for row in record.tables[str(tmp_path)])


def test_tests_whose_time_is_over_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they had failed."""
    monkeypatch.setattr(gpu_tests, "WRITING", 600.0)
    (tmp_path / "test_failing.py").write_text(FAILING)
    options = replace(TINY, minutes=5.0, results=tmp_path / "results")
    record = measure("tests", lambda own: gpu_tests.run_tests(str(tmp_path), str(tmp_path), "gpu", own), options, {})
    assert "stopped: its time was over" in record.error


def test_what_a_killed_process_started_is_killed() -> None:
    """It would keep the card from the parts behind it."""
    process = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child = psutil.Process(int(process.stdout.readline()))
    assert ended_within(process, 0.0) is None
    child.wait(60)
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        {"difference": 0.02, "greatest logit": 10.0, "finite": "True"},
        {"difference": float("nan"), "greatest logit": 10.0, "finite": "False"},
        {"difference": 0.0, "greatest logit": 0.0, "finite": "True"},
    ],
)
def test_a_graph_that_differs_is_told(row: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each number of tokens: another logit, one that is not finite, and none at all."""
    pytest.importorskip("triton")
    monkeypatch.setattr(flat_steps, "_compare", lambda *_: row)
    monkeypatch.setattr(flat_steps.FlatStep, "warm_up", lambda self: None)
    assert wrong("flat_steps", tmp_path).count("the graph gives other logits") == 5


def fail(request: object) -> None:
    """Stand for an engine's submit."""
    raise ModelError("It failed.")


@pytest.fixture
def broken_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that answer nothing once they have started, since their logits are not finite."""
    start = gpu.start

    def started(*arguments: object) -> gpu.Model:
        model = start(*arguments)  # type: ignore[arg-type]
        stats = model.engine.stats
        monkeypatch.setattr(model.engine, "submit", fail)
        monkeypatch.setattr(model.engine, "stats", lambda: replace(stats(), nan_logits_total=3))
        return model

    monkeypatch.setattr(gpu, "start", started)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "told"),
    [("load", "c=2: "), ("long_row", "short rows alone again"), ("profile", "2 rows and prompts: ModelError")],
)
def test_failed_answers_and_logits_that_are_not_finite_are_told(
    part: str, told: str, tmp_path: Path, broken_engines: None
) -> None:
    """By the parts that ask an engine, each of which goes on to its end."""
    error = wrong(part, tmp_path)
    assert "not finite: 3" in error
    assert told in error


def test_images_that_fail_are_told() -> None:
    """With their number."""
    engine = SimpleNamespace(stats=lambda: SimpleNamespace(nan_logits_total=0), submit=fail)
    rows = list(both._images(SimpleNamespace(engine=engine), TINY))  # type: ignore[arg-type]
    assert rows[-1] == engines.problem("images of any size: 0: ModelError, 1: ModelError, 2: ModelError")


def test_rows_without_a_token_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was measured then."""
    monkeypatch.setattr(long_row, "LONGEST", 0.0)
    model = SimpleNamespace(sizes=SimpleNamespace(window=0.0))
    rows = list(long_row._short_rows("alone", [], model))  # type: ignore[arg-type]
    assert [title for title, _ in rows] == ["short rows", "problems"]


@pytest.mark.slow
def test_a_service_that_answers_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of its models."""
    too_long = engines.one_request(shapes(True)[0], 1_000_000, 1, 0)
    monkeypatch.setattr(defaults, "_requests", lambda seed: itertools.repeat(too_long, 10_000))
    assert wrong("defaults", tmp_path).count(" 0 tokens") == 2


KERNEL = {"us": 1.0, "weight": "8B qkv", "format": "int8", "T": 1, "tiles": "fast", "cuBLAS us": 9.0}


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_fast_tiles_that_are_wrong_are_told_and_not_chosen(error: float) -> None:
    """The slower right ones are the best."""
    cublas = {**KERNEL, "us": 9.0, "tiles": "cuBLAS"}
    fast, slow = {**KERNEL, "error": error}, {**KERNEL, "us": 2.0, "tiles": "slow", "error": 1e-4}
    assert packed._best([cublas, fast, slow])["tiles"] == "slow"
    assert packed._best([cublas, fast])["tiles"] == "cuBLAS"
    assert [[title for title, _ in told("products", row, 0.01)] for row in (cublas, fast, slow)] == [
        ["products"], ["products", "problems"], ["products"]
    ]  # fmt: skip


def test_attention_that_is_fast_and_wrong_is_told_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error stands beside its time, which is left out of the comparison."""
    right, wrong = {"us": 3.0, "error": 1e-3}, {"us": 1.0, "error": float("nan")}
    models = len(few_rows.HEADS)
    found = iter([right] * models + [wrong] * models)
    monkeypatch.setattr(few_rows, "measured", lambda *_: next(found))
    monkeypatch.setattr(few_rows, "cases", lambda options: {"case": []})
    rows = list(few_rows.few_rows(TINY))
    assert [row["us"] for title, row in rows if title == "best"] == [3.0] * models
    assert [title for title, _ in rows].count("problems") == models


def refuse(*arguments: object, **options: object) -> None:
    """Stand for a kernel that the card does not run."""
    raise RuntimeError("out of resource")


@pytest.mark.parametrize(
    ("part", "first"),
    [
        ("packed", "products: no variant ran, the first: weight 8B qkv, format fp8"),
        ("skinny", "products: no variant ran, the first: weight 8B qkv"),
        ("paged_attention", "paged attention: no variant ran, the first: model 8B"),
        ("few_rows", "8B, 1 of 300: no variant gave a right result, the first: RuntimeError"),
    ],
)
def test_a_kernel_that_the_card_refuses_altogether_is_told(
    part: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was measured then."""
    pytest.importorskip("triton")
    from engine.model.cuda import attention

    monkeypatch.setattr(attention, "paged_attention", refuse)
    monkeypatch.setattr(packed, "_call", refuse)
    monkeypatch.setattr(skinny._Products, "skinny", refuse)
    error = wrong(part, tmp_path)
    assert first in error
    assert "out of resource" in error


def test_a_variant_that_the_card_refuses_is_no_problem() -> None:
    """As long as another one runs."""
    refused = {"tiles": "large", "refused": "out of resource"}
    assert list(told_if_none_ran("products", [refused, KERNEL])) == []
    assert list(told_if_none_ran("products", [refused, refused])) == [
        engines.problem("products: no variant ran, the first: tiles large, refused out of resource")
    ]


def test_a_card_without_fp8_may_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It multiplies weights of 8 and 4 bits all the same."""
    card = replace(TINY, device="cuda")
    for capability, multiplies in (((8, 6), False), ((8, 9), True), ((12, 0), True)):
        monkeypatch.setattr(packed.torch.cuda, "get_device_capability", lambda own=capability: own)
        assert packed._multiplies_fp8(card) is multiplies
    assert packed._multiplies_fp8(TINY)


def test_a_reader_tells_whatever_ends_its_answers() -> None:
    """An error that is none of the service's too; nobody waits for its tokens then."""

    def break_off(request: object) -> None:
        raise RuntimeError("broken")

    model = SimpleNamespace(engine=SimpleNamespace(submit=break_off))
    reader = engines.Reader(model, itertools.repeat(None))  # type: ignore[arg-type]
    reader.start()
    while not reader.errors:
        time.sleep(0.001)
    reader.stop()
    assert set(reader.errors) == {"RuntimeError"}


def words(rows: Rows) -> list[object]:
    """Return the verdicts among rows, and whether each that is missed has its problem."""
    told = list(rows)
    found = [row["verdict"] for name, row in told if name == "targets"]
    assert sum(name == PROBLEMS for name, _ in told) == found.count("missed")
    return found


def test_figures_of_a_card_are_judged() -> None:
    """A target that is missed is a problem, and what was not measured decides nothing."""
    assert words(aims.aimed_speeds({1: 150.0, 8: 1.0, 64: 6_999.0}, "NVIDIA H100 80GB HBM3")) == ["met", "missed"]
    assert words(aims.aimed_speeds({1: 1.0}, "NVIDIA L4")) == []
    alone = [{"p95, ms": 10.0}, {"p95, ms": 12.0}]
    assert words(aims.aimed_gaps(alone, {"p95, ms": 12.1})) == ["met"]
    assert words(aims.aimed_gaps(alone, {"p95, ms": 12.2})) == ["missed"]
    assert words(aims.aimed_gaps([{"p95, ms": None}], {"p95, ms": 12.2})) == []
    assert words(aims.aimed_together(0.9)) == ["met"]
    assert words(aims.aimed_together(0.89)) == ["missed"]
    assert words(aims.aimed_together(None)) == []
