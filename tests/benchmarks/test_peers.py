"""The order of the rounds, the report, and a server that does not start."""

from __future__ import annotations

import json

import pytest

from benchmarks import peers
from benchmarks.harness.figures import Objective, Outcome, summary
from benchmarks.harness.peer_builds import Build
from tests.benchmarks.harness.figures_of_rounds import rounds


def test_every_round_starts_with_another_server() -> None:
    """No server always gets the warm or the quiet machine."""
    names = ["a", "b", "c"]
    compared = [peers.Server(name, (), "/") for name in names]
    order = [(number, server.name) for number, server in peers.in_turn(compared, 4)]
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [number for number, _ in order] == [number for number in range(4) for _ in names]


def targets(text: str) -> list[str]:
    """Return the rows of the table of targets."""
    return text.partition("## Targets\n\n")[2].partition("\n\n")[0].splitlines()[2:]


def test_the_report_has_every_load_and_every_goal(tmp_path, capsys) -> None:
    """The results so far can be written after every server."""
    command = ["--text", "t", "--c", "1,32", "--results", str(tmp_path), "--logs", str(tmp_path)]
    asked = peers.arguments(command)
    todo = peers.tasks(asked.c, images=True)
    broken = [summary([Outcome(0.1, error="status 503")], 1.0, Objective())]
    measured = {"ours": {"c=1": rounds(120)}, "vLLM": {"c=1": rounds(100)}, "transformers serve": {"c=32": broken}}
    built = {"vLLM": Build({"vllm --version": "0.32.0"}, "AVX512")}
    path = peers.report(peers.record.facts(["torch"]), measured, todo, asked, built)
    text = path.read_text()
    assert "1.20 (1.20 to 1.20)" in text
    assert "# The same model behind 3 servers" in text
    assert [word for *_, word in peers.judge(measured, asked)].count("not measured") == len(targets(text)) - 1
    assert "Failed requests: 1. transformers serve: status 503 (1)" in text
    assert "- vLLM: vllm --version 0.32.0; build: AVX512" in text
    written = json.loads(path.with_suffix(".json").read_text())
    assert written["peers"]["vLLM"] == {"versions": {"vllm --version": "0.32.0"}, "build": "AVX512"}


def test_a_peer_that_answers_nothing_is_told(tmp_path) -> None:
    """In each of its cells, in the ratios, in the verdicts and in a sentence."""
    asked = peers.arguments(["--text", "t", "--c", "32", "--results", str(tmp_path), "--logs", str(tmp_path)])
    broken = [summary([Outcome(0.1, error="status 503")] * 9, 1.0, Objective())]
    measured = {"ours": {"c=32": rounds(120)}, "vLLM": {"c=32": broken}}
    text = peers.report(peers.record.facts(["torch"]), measured, peers.tasks([32], False), asked, {}).read_text()
    assert "| vLLM | 0.00 (0.00 to 0.00) (9 of 9 failed) |" in text
    assert "| vLLM | not comparable |" in text
    assert "| tokens/s: at least 1.3 times vLLM's | c=32 |  | not comparable |" in text
    assert "Not one request succeeded: vLLM, c=32." in text


@pytest.mark.parametrize(("speed", "status"), [(160, 0), (140, 1)])
def test_a_missed_target_fails_the_command(speed: float, status: int, tmp_path, monkeypatch) -> None:
    """So does not one that nothing was measured of."""
    measured = {"ours": {"c=1": rounds(speed)}, "vLLM": {"c=1": rounds(100)}}
    monkeypatch.setattr(peers, "compare", lambda *arguments: iter([measured]))
    command = ["--text", "t", "--no-lock", "--no-pin", "--c", "1"]
    assert peers.main([*command, "--results", str(tmp_path), "--logs", str(tmp_path)]) == status


def test_formats_of_weights_are_compared_with_llama_cpp(tmp_path) -> None:
    """Each of ours beside each of llama.cpp's, over the same checkpoint; every target has a verdict."""
    command = ["--text", "t", "--c", "1,4,16", "--llama", "python", "--no-lock", "--no-mixed"]
    asked = peers.arguments([*command, "--results", str(tmp_path), "--logs", str(tmp_path)])
    compared = {server.name: server for server in peers.chosen(asked)}
    assert {*peers.LLAMA, peers.OURS, peers.HALF, peers.INT8, peers.INT4} == set(compared)
    assert compared[peers.INT8].env["VIBE_QUANT"] == "int8"
    assert compared[peers.HALF].env["VIBE_DTYPE"] == "bfloat16"
    assert compared["llama.cpp, Q4_0"].command[2:] == ("t", "q4_0", "{port}", "16", str(peers.MODEL_LENGTH), "1")
    measured = {peers.INT8: {"c=1": rounds(160)}, "llama.cpp, Q8_0": {"c=1": rounds(100)}}
    text = peers.report(
        peers.record.facts(["torch"]), measured, peers.tasks(asked.c, images=False), asked, {}
    ).read_text()
    assert "| tokens/s of int8: at least 1.5 times llama.cpp, Q8_0 | c=1 | 1.60 (1.60 to 1.60) | met |" in text


@pytest.mark.slow
def test_a_server_that_does_not_start_ends_the_run(tmp_path, capsys) -> None:
    """One sentence that says where to look, and an exit status; earlier results are kept."""
    command = ["--text", str(tmp_path / "nothing"), "--no-lock", "--no-pin", "--c", "1", "--rounds", "1"]
    assert peers.main([*command, "--results", str(tmp_path), "--logs", str(tmp_path / "logs")]) == 1
    assert str(tmp_path / "logs") in capsys.readouterr().err
    assert "VIBE_MODEL_DIR" in (tmp_path / "logs" / "ours.log").read_text()
