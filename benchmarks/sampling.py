"""Measure what each sampling parameter costs with a vocabulary of 151,936 tokens, in process, on the CPU.

    python -m benchmarks.sampling [--text FOLDER] [--rows 32] [--tokens N] [--rounds N] [--core N] ...

Each round decodes with every combination of parameters: once in all rows, once in one row among plain ones. The order
alternates from round to round. Ratios are those of a round: tokens/s in all rows to those of plain sampling, and the
p95 of the steps with one such row, which is the gap that all other rows have, to that of plain sampling. Beside each is
the same ratio in CPU time of the whole process, which other load on the machine affects less. Without a folder a model
of two layers of Qwen3-0.6B's shape is created, in whose steps sampling has a larger share than in any Qwen3.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.checkpoints import checkpoint
from benchmarks.harness.command_line import add_run_options, keep_to_core
from benchmarks.harness.comparison import Spread, spread
from benchmarks.harness.figures import percentile
from benchmarks.harness.stepping import SteppedEngine
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.offline import spec
from engine.loading.loader import load_model
from engine.loading.vocabulary import vocabulary_of
from engine.text.grammar import Grammars, json_grammar
from engine.types import EngineConfig, GenerationRequest, SamplingParams, TokensPrompt

MODEL_LENGTH = 1024
PROMPT_TOKENS = 150
TIMEOUT = 3600.0
LEAST_SPEED, MOST_GAP = 0.8, 1.25
PLAIN = "plain"
# Answers that follow it do not end by themselves.
SCHEMA = '{"type": "array", "items": {"type": "string"}, "minItems": 1000}'
BIAS = {7 * token: 1.0 for token in range(300)}
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.1}
COMBINATIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "greedy": {"temperature": 0.0},
    "top_k 50": {"top_k": 50},
    "top_k 5000": {"top_k": 5000},
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.5": {"top_p": 0.5},
    "min_p 0.05": {"min_p": 0.05},
    "min_p 0.001": {"min_p": 0.001},
    "top_k 50, top_p 0.9": {"top_k": 50, "top_p": 0.9},
    "top_k 5000, top_p 0.9, min_p 0.001": {"top_k": 5000, "top_p": 0.9, "min_p": 0.001},
    "penalties": PENALTIES,
    "bias of 300 tokens": {"logit_bias": BIAS},
    "logprobs 0": {"logprobs": 0},
    "logprobs 20": {"logprobs": 20},
    "greedy, logprobs 20": {"temperature": 0.0, "logprobs": 20},
    "grammar": {"token_mask": SCHEMA},
    "top_p 0.9, penalties, logprobs 20": {"top_p": 0.9, "logprobs": 20, **PENALTIES},
    "grammar, top_p 0.9, logprobs 20": {"top_p": 0.9, "logprobs": 20, "token_mask": SCHEMA},
    "all together": {
        "top_k": 5000, "top_p": 0.9, "min_p": 0.001, "logprobs": 20, "logit_bias": BIAS, "token_mask": SCHEMA,
        **PENALTIES,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoding:
    """Seconds of the decode steps with all rows, by the wall clock and as CPU time of the process."""

    wall: list[float]
    cpu: list[float]

    def figures(self) -> dict[str, float]:
        """Return mean and p95 of both, in milliseconds."""
        parts = {"wall": self.wall, "cpu": self.cpu}
        means = {f"{name}_ms": 1e3 * statistics.fmean(part) for name, part in parts.items()}
        return means | {f"{name}_p95_ms": 1e3 * (percentile(part, 95) or 0.0) for name, part in parts.items()}


Figures = dict[str, dict[str, list[dict[str, float]]]]  # of each round, by the rows that have them and combination


class Bench:
    """One engine over a loaded model, and the requests of its rows."""

    def __init__(self, folder: Path, rows: int, tokens: int) -> None:
        loaded = load_model(spec(folder, vision=False), lambda progress: None, MODEL_LENGTH)
        self._engine = SteppedEngine(loaded, EngineConfig(max_num_seqs=rows, max_model_len=MODEL_LENGTH))
        vocabulary = vocabulary_of(loaded)
        self._grammars = None if vocabulary is None else Grammars(vocabulary)
        self._vocabulary, self._rows, self._tokens = loaded.vocab_size, rows, tokens

    def decode(self, params: dict[str, Any], special: int, seed: int) -> Decoding:
        """Decode in all rows, of which the first `special` have these parameters and the others none.

        Again, where no step had all rows: those whose grammars are late sit some out.
        """
        while not (found := self._decode(params, special, seed)).wall:
            pass
        return found

    def _decode(self, params: dict[str, Any], special: int, seed: int) -> Decoding:
        requests = [self._request(params if row < special else {}, (seed, row)) for row in range(self._rows)]
        steps = self._engine.closed_loop(requests, self._rows)
        found = Decoding([], [])
        began, cpu = time.perf_counter(), time.process_time()
        for step in steps:
            ended, cpu_ended = time.perf_counter(), time.process_time()
            if step.rows == self._rows and not step.prompt_tokens:
                found.wall.append(ended - began)
                found.cpu.append(cpu_ended - cpu)
            began, cpu = time.perf_counter(), time.process_time()
        return found

    def close(self) -> None:
        """End the threads of the grammars."""
        if self._grammars is not None:
            self._grammars.close()

    def _request(self, params: dict[str, Any], seed: tuple[int, int]) -> GenerationRequest:
        rng = random.Random(repr(seed))
        prompt = TokensPrompt(tuple(rng.choices(range(256, self._vocabulary), k=PROMPT_TOKENS)))
        own = {"temperature": 0.7, "seed": seed[0], "ignore_eos": True} | params
        if "token_mask" in own and self._grammars is not None:
            own["token_mask"] = self._grammars.mask(json_grammar(own["token_mask"]))
        sampling = SamplingParams(self._tokens, **own)
        return GenerationRequest(f"{seed}", prompt, sampling, queue_timeout=TIMEOUT, timeout=TIMEOUT)


def measure(bench: Bench, names: Sequence[str], rows: int, rounds: int) -> Figures:
    """Return the figures of each round; one before the first, of plain sampling, warms up."""
    figures: Figures = {"all rows": {}, "one row": {}}
    bench.decode({}, 0, 0)
    for number in tqdm(range(rounds), unit="round", disable=None):
        for name in names if number % 2 else reversed(names):
            for kind, special in (("all rows", rows), ("one row", 1)):
                found = bench.decode(COMBINATIONS[name], special, number).figures()
                figures[kind].setdefault(name, []).append(found)
    return figures


def ratios(figures: Figures, name: str) -> tuple[Spread, Spread, Spread, Spread]:
    """Return tokens/s of all rows, by both clocks, and the p95 with one row, by both, relative to plain sampling."""

    def relative(kind: str, key: str, inverted: bool) -> Spread:
        both = zip(figures[kind][name], figures[kind][PLAIN], strict=True)
        found = spread([plain[key] / own[key] if inverted else own[key] / plain[key] for own, plain in both])
        assert found is not None
        return found

    all_rows = (relative("all rows", key, True) for key in ("wall_ms", "cpu_ms"))
    one_row = (relative("one row", key, False) for key in ("wall_p95_ms", "cpu_p95_ms"))
    return (*all_rows, *one_row)  # type: ignore[return-value]


def table(figures: Figures, rows: int) -> str:
    """Return the table of the combinations."""
    cells = []
    for name, found in figures["all rows"].items():
        speed = rows / statistics.median(each["wall_ms"] for each in found) * 1e3
        cells.append((name, f"{speed:,.0f}", *map(str, ratios(figures, name))))
    header = ("parameters", f"tokens/s, {rows} rows", "to plain", "by CPU time", "p95 beside one row", "by CPU time")
    return record.table(header, cells)


def verdict(figures: Figures) -> Verdict:
    """Return the verdict, which names the combinations that miss a target."""
    own = {name: ratios(figures, name) for name in figures["all rows"]}
    missed = [name for name, (wall, _, p95, _) in own.items() if wall.median < LEAST_SPEED or p95.median > MOST_GAP]
    target = f"at least {LEAST_SPEED:g} of plain sampling, and a p95 of at most {MOST_GAP:g}"
    return judged(target, not missed, f"not by {', '.join(missed)}" if missed else "by each")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text model (by default that of benchmarks.make_model --kind wide)")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48, help="tokens per answer")
    parser.add_argument("--only", action="append", choices=COMBINATIONS, help="beside plain (repeatable)")
    add_run_options(parser, "sampling", rounds=5)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, threads: Callable[[int], None] = torch.set_num_threads) -> int:
    """Measure, print and write the results; return the exit status, 1 if a target is missed."""
    options = arguments(argv)
    keep_to_core(options.core)
    threads(1)
    found = record.facts(["torch", "transformers", "numpy", "llguidance"])
    names = [PLAIN, *(name for name in options.only or COMBINATIONS if name != PLAIN)]
    with checkpoint("wide", options.text) as folder:
        bench = Bench(folder, options.rows, options.tokens)
        try:
            figures = measure(bench, names, options.rows, options.rounds)
        finally:
            bench.close()
    written = {"rows": options.rows, "figures": figures}
    parts = [table(figures, options.rows), str(verdict(figures))]
    path = record.write(options.name, found, written, "What sampling parameters cost", parts, options.results)
    print(path.read_text(encoding="utf-8"))
    return exit_status([verdict(figures).word])


if __name__ == "__main__":
    sys.exit(main())
