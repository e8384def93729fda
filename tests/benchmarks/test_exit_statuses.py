"""A program whose target is missed ends with 1: each is given figures that it would otherwise have measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import (
    compile_effect,
    drafts,
    gpu,
    hooks_cost,
    key_cost,
    offline,
    page_latency,
    page_shift,
    page_tasks,
    reading,
    sampling,
    upstream_cost,
    weights,
)
from benchmarks.harness.gpu_report import Measured
from benchmarks.harness.step_report import by_shape
from benchmarks.harness.stepping import Step
from benchmarks.harness.targets import Word
from tests.benchmarks.harness.figures_of_rounds import rounds

Replaced = dict[str, Any]


@contextmanager
def instead(*arguments: object) -> Iterator[str]:
    """Stand for a server, or for the folder of a checkpoint."""
    yield "http://127.0.0.1:1"


def given(value: object) -> Callable[..., Any]:
    """Return a function that returns this value."""
    return lambda *arguments: value


async def _coroutine(value: object) -> object:
    return value


def samples(milliseconds: float) -> hooks_cost.Samples:
    """Return requests that took so long above one millisecond."""
    own = hooks_cost.Samples()
    own.add([0.001 + milliseconds / 1000] * 3, 1.0)
    return own


def hooks(added: float) -> Replaced:
    """Return what replaces the measuring of hooks_cost."""
    made = {name: samples(0.0 if name == hooks_cost.BARE else added) for name in hooks_cost.ROUTES}
    return {"running": instead, "measure": lambda *arguments: _coroutine(made)}


def keys(added: float) -> Replaced:
    """Return what replaces the measuring of key_cost."""
    made = {key_cost.WITHOUT: samples(0.0), key_cost.KEY: samples(added)}
    return {"running": instead, "filled": given("key"), "measure": lambda *arguments: _coroutine(made)}


def engine_alone(host: float, ratio: float) -> Replaced:
    """Return what replaces the measuring of offline. host: seconds of a step; ratio: of images."""
    steps = {"by_shape": by_shape([Step(32, 0, host, 0, 0.01, 0, 0, 0)]), "tokens_per_second": {"c=32": 1.0}}
    images = {"clients": 16, "tokens_per_second": {"engine": [ratio], "one by one": [1.0]}, "ratios": [ratio]}
    return {"checkpoint": instead, "measure_steps": given(steps), "measure_images": given(images)}


def parameters(wall: float) -> Replaced:
    """Return what replaces the measuring of sampling. wall: of a step with a grammar, in milliseconds."""

    def found(wall: float) -> list[dict[str, float]]:
        return [{"wall_ms": wall, "cpu_ms": 10.0, "wall_p95_ms": 10.0, "cpu_p95_ms": 10.0}]

    own = {sampling.PLAIN: found(10.0), "grammar": found(wall)}
    bench = given(SimpleNamespace(close=lambda: None))
    return {"checkpoint": instead, "Bench": bench, "measure": given({"all rows": own, "one row": own})}


def card(speed: float, failed: int = 0) -> Replaced:
    """Return what replaces the measuring of gpu: of one client, with a limit of 100 tokens a second."""
    figures = {**rounds(speed)[0], "step_ms": 1.0, "failures": failed}
    model = SimpleNamespace(engine=SimpleNamespace(stop=given(None)), demand=given(None))
    return {
        "start": given(model),
        "copy_bandwidth": given(1e9),
        "limits": given({"text, c=1": 100.0, "vision, c=1": 100.0}),
        "measure": given([Measured({"text, c=1": {"text": figures}})]),
    }


def proxied(added: float = 1.0, cpu: float = 0.05, latest: float = 0.1, failed: int = 0) -> Replaced:
    """Return what replaces the measuring of upstream_cost."""
    first = {"added_ms": added, "added_mean_ms": added, "cpu_ms": 1.0}
    cores = {"ours": 0.5, "stub": 0.1, "reader": 0.1}
    streams = {"events_a_second": 1.0, "cpu_ms_an_event": {"ours": cpu}, "cores": cores, "latest_s": latest}
    streams |= {"stub_latest_s": 0.0, "failed": failed}
    return {"_first_texts": given({"ours": first}), "_streams": given(streams)}


def compiled(gap: float) -> Replaced:
    """Return what replaces the measuring of compile_effect. gap: with new schemas, in seconds."""

    def phase(port: int, kind: str, *arguments: object) -> tuple[list[float], list[float]]:
        return [gap if kind == "new" else 0.02] * 5, [0.1]

    return {"running": instead, "_ask": given(0.1), "_phase": phase}


def flows(shift: float) -> Replaced:
    """Return what replaces the measuring of page_shift."""
    row = {"width": 390, "flow": "ask", "cls": shift, "caused": 0.0}
    return {"running": instead, "measured": given([row])}


def done(seconds: float) -> Replaced:
    """Return what replaces the measuring of page_tasks."""
    row = {"width": 390, "task": "a", "keys": 1, "decisions": 1, "seconds": seconds, "waited": 0.0}
    return {"running": instead, "measured": given([row])}


def painted(milliseconds: float) -> Replaced:
    """Return what replaces the measuring of page_latency."""
    return {"running": instead, "_watched": given(([(0.0, milliseconds)] * 9, {"all": 1.0}))}


def drafted(repeated: float, other: float) -> Replaced:
    """Return what replaces the measuring of drafts: the ratio of repeated texts to one client, and of all others."""

    def measure(engine: object, requests: object, loads: dict[tuple[str, int], drafts.Load], *rest: object) -> None:
        for which, load in loads.items():
            load.ratios.append(repeated if which == ("repeated", 1) else other)

    loaded = given(SimpleNamespace(vocab_size=300))
    questions = SimpleNamespace(text_items=given([]))
    return {"load_model": loaded, "SteppedEngine": given(None), "held_out": questions, "measure": measure}


def formats(prompt: float, loading: float) -> Replaced:
    """Return what replaces the measuring of the speed of formats, as ratios to float32."""
    speeds = {"float32": (1.0, 1.0), "bfloat16": (2.5, 1.0), "int8": (prompt, loading)}
    benches = {
        name: SimpleNamespace(loading=seconds, speeds={weights.PROMPT: [speed]})
        for name, (speed, seconds) in speeds.items()
    }
    return {"checkpoint": instead, "measure_speed": given(benches)}


def answered(right: int) -> Replaced:
    """Return what replaces the asking of 1,000 questions, of which int8 answers so many well and float32 900."""

    class Asked(weights.Answers):
        def ask(self, name: str) -> None:
            self.right[name] = {"text: a": (right if name == "int8" else 900, 1000)}

    return {"Answers": Asked}


def read(seconds: float) -> Replaced:
    """Return what replaces the measuring of a token, where its weights are read in one second."""
    engine = {"checkpoint": instead, "load_model": given(None), "SteppedEngine": given(None)}
    own = {"bytes_read": given(1000), "readers": given({"numpy": given(None)})}
    return engine | own | {"token_seconds": given([seconds]), "reading_seconds": given(1.0)}


CASES = [
    (drafts, drafted(1.7, 1.0), 0, []),
    (drafts, drafted(1.5, 1.0), 1, []),
    (drafts, drafted(1.7, 0.9), 1, []),
    (weights, formats(2.1, 1.4), 0, ["speed"]),
    (weights, formats(1.9, 1.4), 1, ["speed"]),
    (weights, formats(2.1, 1.6), 1, ["speed"]),
    (weights, answered(896), 0, ["answers"]),
    (weights, answered(894), 1, ["answers"]),
    (reading, read(1.1), 0, []),
    (reading, read(1.2), 1, []),
    (hooks_cost, hooks(0.5), 0, []),
    (hooks_cost, hooks(1.5), 1, []),
    (key_cost, keys(0.2), 0, []),
    (key_cost, keys(0.4), 1, []),
    (offline, engine_alone(0.0005, 7.0), 0, []),
    (offline, engine_alone(0.0005, 5.0), 1, []),
    (offline, engine_alone(0.0015, 7.0), 1, []),
    (sampling, parameters(11.0), 0, []),
    (sampling, parameters(20.0), 1, []),
    (gpu, card(80.0), 0, ["--device", "cpu", "--c", "1"]),
    (gpu, card(60.0), 1, ["--device", "cpu", "--c", "1"]),
    (gpu, card(80.0, failed=3), 1, ["--device", "cpu", "--c", "1"]),
    (upstream_cost, proxied(), 0, []),
    (upstream_cost, proxied(added=2.5), 1, []),
    (upstream_cost, proxied(cpu=0.2), 1, []),
    (upstream_cost, proxied(latest=1.5), 1, []),
    (upstream_cost, proxied(failed=1), 1, []),
    (compile_effect, compiled(0.021), 0, []),
    (compile_effect, compiled(0.03), 1, []),
    (page_shift, flows(0.01), 0, []),
    (page_shift, flows(0.06), 1, []),
    (page_tasks, done(40.0), 0, []),
    (page_tasks, done(70.0), 1, []),
    (page_latency, painted(10.0), 0, []),
    (page_latency, painted(30.0), 1, []),
]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Give torch its threads back, of which `sampling` takes all but one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("program", "replaced", "status", "options"),
    CASES,
    ids=[f"{case[0].__name__.rpartition('.')[2]}, {case[2]}, {number}" for number, case in enumerate(CASES)],
)
def test_the_exit_status_follows_the_verdicts(
    program: Any,
    replaced: Replaced,
    status: int,
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whose words stand in what is printed."""
    for name, own in replaced.items():
        monkeypatch.setattr(program, name, own)
    monkeypatch.setattr(sys, "argv", ["program", *options, "--results", str(tmp_path)])
    assert program.main() == status
    printed = capsys.readouterr().out
    words = {word for word in Word if word in printed}
    assert words == {Word.MET} if status == 0 else words & {Word.MISSED, Word.NOT_COMPARABLE}
