"""Measure what drafting tokens from an answer's own text gains and costs on the CPU, beside the engine without it.

    python -m benchmarks.drafts [--text FOLDER] [--quant none,int8] [--c 1,4,16] [--rounds 3] ...

Both answer the same requests in each round, in turn. *repeated*: texts that go on as their prompts did, at temperature
0: a prompt ends in what the model itself makes of its beginning, in which it has come to repeat itself. *copied*: the
demo model's held-out questions at temperature 0, whose answers repeat words of the question. *greedy* and *drawn*:
random prompts at temperature 0 and 1, with nothing to repeat until the answer itself has it. Ratios of tokens/s to the
engine without drafts, and the share of drafts that were right. Answers are compared too: in float32 the size of a batch
may change the last bit of a logit, and so a choice between equal ones.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.command_line import add_run_options, keep_to_core, whole_numbers
from benchmarks.harness.comparison import spread
from benchmarks.harness.stepping import SteppedEngine
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.offline import spec
from benchmarks.weights import in_format
from demo import evaluate as held_out
from demo import evaluate_text
from engine.loading.loader import load_model
from engine.types import ChatPrompt, EngineConfig, GenerationRequest, SamplingParams, TokensPrompt

MODEL_LENGTH = 1024
PROMPT_TOKENS, ANSWER_TOKENS = 148, 64
BEGINNING = 20  # tokens of a repeated text's prompt that are not the model's own
EACH = 2  # requests of each client
TIMEOUT = 3600.0
KINDS = ("repeated", "copied", "greedy", "drawn")
REPEATED_TARGET, LEAST = 1.6, 0.97  # of repeated texts to one client, and of all others


@dataclass(slots=True)
class Load:
    """What was measured of one kind of text with one number of clients: of each round, and over all."""

    ratios: list[float] = field(default_factory=list)
    drafted: int = 0
    right: int = 0
    different: int = 0


class Requests:
    """Makes the same requests for both sides of a round. Prompts of repeated texts are made by the engine itself."""

    def __init__(self, vocabulary: int, items: Sequence[str], engine: SteppedEngine) -> None:
        self._vocabulary, self._items, self._engine = vocabulary, items, engine

    def make(self, kind: str, clients: int, seed: int) -> list[GenerationRequest]:
        """Return the requests of one round."""
        rng = random.Random(repr((kind, clients, seed)))
        numbers = range(max(8, EACH * clients))
        prompts: Sequence[ChatPrompt | TokensPrompt]
        if kind == "copied":
            prompts = [ChatPrompt(({"role": "user", "content": rng.choice(self._items)},)) for _ in numbers]
        elif kind == "repeated":
            prompts = self._repeating([self._drawn(rng, BEGINNING) for _ in numbers], clients)
        else:
            prompts = [self._drawn(rng, PROMPT_TOKENS) for _ in numbers]
        return _requests(prompts, ANSWER_TOKENS, float(kind == "drawn"), ignore_eos=kind != "copied")

    def _drawn(self, rng: random.Random, tokens: int) -> TokensPrompt:
        return TokensPrompt(tuple(rng.choices(range(256, self._vocabulary), k=tokens)))

    def _repeating(self, begun: Sequence[TokensPrompt], clients: int) -> list[TokensPrompt]:
        """Return prompts with what the model makes of them behind them."""
        _, own = answer(self._engine, _requests(begun, PROMPT_TOKENS - BEGINNING), clients, 0)
        return [TokensPrompt((*prompt.token_ids, *own[str(number)])) for number, prompt in enumerate(begun)]


def _requests(
    prompts: Sequence[ChatPrompt | TokensPrompt], tokens: int, temperature: float = 0.0, ignore_eos: bool = True
) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            str(number),
            prompt,
            SamplingParams(tokens, temperature, seed=number, ignore_eos=ignore_eos),
            queue_timeout=TIMEOUT,
            timeout=TIMEOUT,
        )
        for number, prompt in enumerate(prompts)
    ]


def answer(
    engine: SteppedEngine, requests: Sequence[GenerationRequest], clients: int, drafts: int
) -> tuple[float, dict[str, tuple[int, ...]]]:
    """Return tokens/s, and the tokens of each answer."""
    engine.draft(drafts)
    began = time.perf_counter()
    for _ in engine.closed_loop(requests, clients):
        pass
    seconds = time.perf_counter() - began
    return engine.counters.generation_tokens / seconds, engine.answers


def measure(
    engine: SteppedEngine, requests: Requests, loads: dict[tuple[str, int], Load], rounds: int, drafts: int
) -> None:
    """Measure every load in every round, after a first request to each side: what is used first is slower once."""
    for tokens in (0, drafts):
        answer(engine, requests.make("greedy", 1, -1)[:1], 1, tokens)
    for number in tqdm(range(rounds), unit="round", disable=None):
        for (kind, clients), load in loads.items():
            made = requests.make(kind, clients, number)
            speeds, answers = {}, {}
            for tokens in (0, drafts) if number % 2 else (drafts, 0):
                speeds[tokens], answers[tokens] = answer(engine, made, clients, tokens)
                load.drafted += engine.counters.draft_tokens
                load.right += engine.counters.accepted_draft_tokens
            load.different += sum(own != answers[drafts][name] for name, own in answers[0].items())
            load.ratios.append(speeds[drafts] / speeds[0])


def table_of(loads: dict[tuple[str, int], Load]) -> str:
    """Return the ratio of each load to the engine without drafts, and how many drafts were right."""
    cells = [
        (
            kind,
            f"c={clients}",
            str(spread(load.ratios)),
            f"{load.drafted:,}",
            f"{load.right / max(1, load.drafted):.0%}",
            str(load.different),
        )
        for (kind, clients), load in loads.items()
    ]
    return record.table(("text", "load", "tokens/s to without", "drafted", "right", "answers that differ"), cells)


def judge(loads: dict[tuple[str, int], Load]) -> list[Verdict]:
    """Return the verdict on each load, by the median of its rounds."""
    found = []
    for (kind, clients), load in loads.items():
        least, ratios = REPEATED_TARGET if (kind, clients) == ("repeated", 1) else LEAST, spread(load.ratios)
        met = ratios is not None and ratios.median >= least
        found.append(judged(f"{kind}, c={clients}: at least {least:g} times without", met, str(ratios)))
    return found


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text model (by default the demo model)")
    parser.add_argument("--quant", default="none", help="format of the weights: none, int8 or int4")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[*KINDS])
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16], help="numbers of clients")
    parser.add_argument("--drafts", type=int, default=8, help="tokens that a sequence may draft a step")
    add_run_options(parser, "drafts", rounds=3)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, threads: Callable[[int], None] = torch.set_num_threads) -> int:
    """Measure, print and write the results; return the exit status, 1 if a target is missed."""
    options = arguments(argv)
    keep_to_core(options.core)
    threads(1)
    found = record.facts(["torch", "transformers", "numpy"])
    folder = options.text or evaluate_text.FOLDER
    own = in_format(spec(folder, vision=False), options.dtype if options.quant == "none" else options.quant)
    loaded = load_model(own, lambda progress: None, MODEL_LENGTH)
    limits = EngineConfig(max_num_seqs=max(8, *options.c), max_model_len=MODEL_LENGTH)
    engine = SteppedEngine(loaded, limits, own.quant)
    items = [item.question for item in held_out.text_items(1.0)]
    loads = {(kind, clients): Load() for kind in options.kinds for clients in options.c}
    measure(engine, Requests(loaded.vocab_size, items, engine), loads, options.rounds, options.drafts)
    figures = {f"{kind} c={clients}": asdict(load) for (kind, clients), load in loads.items()}
    verdicts = judge(loads)
    tables = [table_of(loads), *map(str, verdicts)]
    path = record.write(options.name, found, figures, "Drafts from an answer's own text", tables, options.results)
    print(*tables, path, sep="\n\n")
    return exit_status(verdict.word for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
