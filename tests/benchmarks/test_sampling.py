"""The benchmark of sampling parameters on a tiny model, and its wide one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import sampling
from benchmarks.harness.checkpoints import WIDE_VOCABULARY, make_tokenizer, widened
from benchmarks.sampling import COMBINATIONS, PLAIN, Bench, ratios, table, verdict
from engine.text.grammar import GrammarMask
from tests.checkpoints import write_text_checkpoint


@pytest.mark.slow
def test_the_command_measures_every_combination(tmp_path: Path) -> None:
    """End to end on a tiny model: all rows and one row, against plain sampling."""
    text = write_text_checkpoint(tmp_path / "text")
    options = ["--rows", "2", "--tokens", "6", "--rounds", "2", "--name", "tiny", "--results", str(tmp_path)]
    own = [part for name in ("greedy", "grammar", "top_p 0.9, penalties, logprobs 20") for part in ("--only", name)]
    status = sampling.main(["--text", str(text), *options, *own], threads=lambda count: None)
    assert status == int(": missed (" in (tmp_path / "tiny.md").read_text())
    figures = json.loads((tmp_path / "tiny.json").read_text())["figures"]
    assert set(figures["all rows"]) == set(figures["one row"]) == {PLAIN, *own[1::2]}
    assert all(len(found) == 2 for kind in figures.values() for found in kind.values())
    assert "| greedy |" in (tmp_path / "tiny.md").read_text()


@pytest.mark.slow
def test_masks_that_are_late_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that computes nothing is none, and without one of all rows nothing was measured."""
    late = iter([False] * 8)
    ready = GrammarMask.ready.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(GrammarMask, "ready", property(lambda mask: next(late, True) and ready(mask)))
    bench = Bench(write_text_checkpoint(tmp_path / "text"), rows=1, tokens=6)
    try:
        assert bench.decode(COMBINATIONS["grammar"], 1, 0).wall
        assert next(late, None) is None
    finally:
        bench.close()


def test_ratios_are_those_of_a_round_to_plain_sampling_in_it() -> None:
    """Tokens/s fall with the time of a step; the p95 rises with it; what misses a target is named."""
    plain = {"wall_ms": 10.0, "cpu_ms": 8.0, "wall_p95_ms": 12.0, "cpu_p95_ms": 9.0}
    slow = {name: 2 * value for name, value in plain.items()}
    figures = {
        kind: {PLAIN: [plain, slow], "greedy": [plain, slow], "grammar": [slow, slow]}
        for kind in ("all rows", "one row")
    }
    assert [each.median for each in ratios(figures, "greedy")] == [1.0] * 4
    assert [each.median for each in ratios(figures, "grammar")] == [0.75, 0.75, 1.5, 1.5]
    assert "| grammar | 200 | 0.75 (0.50 to 1.00) |" in table(figures, rows=4)
    assert str(verdict(figures)).endswith("missed (not by grammar).")


@pytest.mark.slow
def test_the_wide_tokenizer_encodes_as_the_narrow_one() -> None:
    """It has more tokens, of which no text consists."""
    narrow, wide = make_tokenizer(), widened(make_tokenizer())
    assert len(wide) == WIDE_VOCABULARY
    assert wide.encode("a red bicycle, <|im_end|>") == narrow.encode("a red bicycle, <|im_end|>")
    assert wide.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).startswith("<|im_start|>user")


def test_every_sampling_parameter_is_measured() -> None:
    """Alone or with others."""
    measured = {name for params in COMBINATIONS.values() for name in params}
    assert measured >= {"temperature", "top_k", "top_p", "min_p", "logit_bias", "logprobs", "token_mask"}
    assert measured >= {"repetition_penalty", "frequency_penalty", "presence_penalty"}
