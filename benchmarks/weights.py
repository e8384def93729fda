"""Measure what the formats of weights cost and save on the CPU: speed, error of the logits, and held-out answers.

    python -m benchmarks.weights speed [--text FOLDER] [--formats float32,bfloat16,int8,int4] [--c 1,4,16] ...
    python -m benchmarks.weights error [--text FOLDER] ...
    python -m benchmarks.weights answers [--share 0.25] ...

speed: tokens/s of decode steps with c sequences, and of a prompt, in rounds in which the formats take turns; ratios are
those of a round to the first format. error: KL divergence and relative error of the logits against float32, and how
often the most probable token is the same, at every position of a random text. answers: the demo models' held-out
questions, asked through the engine. Targets: prompts in bfloat16 and int8 twice as fast as in float32, int8 loaded in
1.5 times its time, and at most half a point of the held-out answers lost to int8. Without a folder a random model of
Qwen3-0.6B's shape with two layers is created.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.checkpoints import checkpoint
from benchmarks.harness.command_line import add_run_options, keep_to_core, whole_numbers
from benchmarks.harness.comparison import spread
from benchmarks.harness.stepping import SteppedEngine
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.offline import spec
from demo import evaluate as held_out
from demo import evaluate_images, evaluate_text
from engine.llm_engine import LLMEngine
from engine.loading.loader import load_model
from engine.model.attention import AttentionMetadata, KernelAttention, Span
from engine.model.decoder import Decoder
from engine.model.kernels.library import load_kernels
from engine.model.kernels.packed import BITS
from engine.model.kv_cache import BlockTables, KVCache
from engine.schedule.block_pool import blocks_for
from engine.text.images import check_header
from engine.types import ChatPrompt, EngineConfig, GenerationRequest, ModelSpec, SamplingParams, TokensPrompt

FORMATS = ("float32", "bfloat16", "int8", "int4")
MODEL_LENGTH = 512
PROMPT_TOKENS, ANSWER_TOKENS, LONG_PROMPT = 148, 48, 296
TEXTS, TEXT_TOKENS = 4, 64
TIMEOUT = 3600.0
SLOTS = 16
PROMPT = "prompt"
PROMPT_TARGET, LOADING_TARGET = 2.0, 1.5  # times float32's
LOST_TARGET = 0.5  # points of the held-out answers


def in_format(own: ModelSpec, name: str) -> ModelSpec:
    """Return a checkpoint to be loaded with weights of a format; quantized ones are quantized from bfloat16."""
    return replace(own, dtype="bfloat16", quant=name) if name in BITS else replace(own, dtype=name)


class Bench:
    """One engine over a model with weights of one format. loading: seconds; speeds: tokens/s of each round."""

    def __init__(self, own: ModelSpec, rows: int) -> None:
        began = time.perf_counter()
        loaded = load_model(own, lambda progress: None, MODEL_LENGTH)
        limits = EngineConfig(max_num_seqs=rows, max_model_len=MODEL_LENGTH, max_num_batched_tokens=LONG_PROMPT)
        self._engine = SteppedEngine(loaded, limits, own.quant)
        self._vocabulary = loaded.vocab_size
        self.loading = time.perf_counter() - began
        self.speeds: dict[str, list[float]] = {}

    def decode(self, rows: int, seed: int) -> None:
        """Decode in `rows` sequences; only steps with a token of each count."""
        seconds = [
            s
            for s, count, chunk in self._steps(rows, PROMPT_TOKENS, ANSWER_TOKENS, seed)
            if count == rows and not chunk
        ]
        self.speeds.setdefault(f"c={rows}", []).append(rows / statistics.fmean(seconds))

    def prompt(self, seed: int) -> None:
        """Compute one prompt."""
        seconds = sum(s for s, _, _ in self._steps(1, LONG_PROMPT, 1, seed))
        self.speeds.setdefault(PROMPT, []).append(LONG_PROMPT / seconds)

    def _steps(self, rows: int, prompt: int, answer: int, seed: int) -> list[tuple[float, int, int]]:
        """Return the seconds of each step, with its decode rows and its tokens of prompts."""
        rng = random.Random(repr((rows, prompt, seed)))
        requests = [self._request(rng.choices(range(256, self._vocabulary), k=prompt), answer) for _ in range(rows)]
        found, began = [], time.perf_counter()
        for step in self._engine.closed_loop(requests, rows):
            ended = time.perf_counter()
            found.append((ended - began, step.rows, step.prompt_tokens))
            began = time.perf_counter()
        return found

    @staticmethod
    def _request(ids: list[int], answer: int) -> GenerationRequest:
        sampling = SamplingParams(answer, 0.0, ignore_eos=True)
        return GenerationRequest(
            "benchmark", TokensPrompt(tuple(ids)), sampling, queue_timeout=TIMEOUT, timeout=TIMEOUT
        )


def measure_speed(folder: Path, names: Sequence[str], counts: Sequence[int], rounds: int) -> dict[str, Bench]:
    """Return the benches of the formats, with the speeds of every round."""
    own = spec(folder, vision=False)
    for file in folder.glob("*.safetensors"):
        file.read_bytes()  # else the first format alone would load from the disk
    benches = {name: Bench(in_format(own, name), max(counts)) for name in names}
    for number in tqdm(range(rounds), unit="round", disable=None):
        for rows in counts:
            for name in names if number % 2 else reversed(names):
                benches[name].decode(rows, number)
        for bench in benches.values():
            bench.prompt(number)
    return benches


def speed_table(benches: dict[str, Bench]) -> str:
    """Return tokens/s, the median of the rounds, and the ratio to the first format."""
    first = next(iter(benches.values()))
    cells = []
    for name, bench in benches.items():
        row = [name]
        for shape, found in bench.speeds.items():
            ratios = spread([own / other for own, other in zip(found, first.speeds[shape], strict=True)])
            row.append(f"{statistics.median(found):,.1f} ({ratios})")
        cells.append((*row, f"{bench.loading / first.loading:.2f}"))
    return record.table(("weights", *first.speeds, "loading"), cells)


def judge_speed(benches: dict[str, Bench]) -> list[Verdict]:
    """Return the verdicts on what has a target, beside float32."""
    if (exact := benches.get("float32")) is None:
        return []
    found = []
    for name in sorted({"bfloat16", "int8"} & benches.keys()):
        own = benches[name].speeds[PROMPT]
        ratios = spread([one / other for one, other in zip(own, exact.speeds[PROMPT], strict=True)])
        met = ratios is not None and ratios.median >= PROMPT_TARGET
        found.append(judged(f"prompts in {name} at least {PROMPT_TARGET:g} times as fast", met, str(ratios)))
    if "int8" in benches:
        ratio = benches["int8"].loading / exact.loading
        met = ratio <= LOADING_TARGET
        found.append(judged(f"int8 loaded in at most {LOADING_TARGET:g} times the time", met, f"{ratio:.2f}"))
    return found


@torch.inference_mode()
def logits_of(folder: Path, name: str, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the logits [tokens, vocabulary] at every position of each text."""
    kernels = load_kernels()
    assert kernels is not None, "formats need the kernels"
    own = in_format(spec(folder, vision=False), name)
    decoder = Decoder(load_model(own, lambda progress: None, MODEL_LENGTH).model, kernels, own.quant)
    blocks = blocks_for(TEXT_TOKENS)
    tables = BlockTables(1, blocks, np.arange(1, blocks + 1, dtype=np.int32)[None])
    found = []
    for ids in texts:
        cache = KVCache(
            decoder.num_layers, blocks + 1, decoder.num_kv_heads, decoder.head_dim, decoder.dtype, decoder.device
        )
        metadata = AttentionMetadata.of([], [Span(0, 0, len(ids))], tables)
        rotary = decoder.rotary(torch.arange(len(ids)))
        attend = KernelAttention(cache, metadata, kernels, decoder.rounds_prompts)
        hidden = decoder.forward(decoder.embed(torch.tensor(ids)), rotary, attend)
        found.append(decoder.logits(hidden))
    return found


def measure_errors(folder: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the errors of the formats against float32: divergence, relative error, and share of the same tokens."""
    vocabulary = load_model(spec(folder, vision=False), lambda progress: None, MODEL_LENGTH).vocab_size
    rng = random.Random(0)
    texts = [rng.choices(range(256, vocabulary), k=TEXT_TOKENS) for _ in range(TEXTS)]
    exact = torch.cat(logits_of(folder, "float32", texts))
    errors = {}
    for name in names:
        found = torch.cat(logits_of(folder, name, texts))
        right, ours = exact.log_softmax(-1), found.log_softmax(-1)
        divergence = (right.exp() * (right - ours)).sum(-1).mean().item()
        same = (exact.argmax(-1) == found.argmax(-1)).float().mean().item()
        relative = ((found - exact).norm() / exact.norm()).item()
        errors[name] = {"divergence": divergence, "relative": relative, "same": same}
    return errors


def error_table(errors: dict[str, dict[str, float]]) -> str:
    """Return the errors by format."""
    cells = [
        (name, f"{one['divergence']:.2e}", f"{one['relative']:.2e}", f"{one['same']:.1%}")
        for name, one in errors.items()
    ]
    return record.table(("weights", "KL divergence", "relative error", "same first token"), cells)


@dataclass(slots=True)
class Answers:
    """The held-out questions of both demo models, through the engine. share: of the questions."""

    share: float
    right: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def ask(self, name: str) -> None:
        """Ask everything of models with weights of a format."""
        texts, images = held_out.text_items(self.share), held_out.image_items(self.share)
        found = self.right.setdefault(name, {})
        for group, good in zip([f"text: {i.group}" for i in texts], self._texts(name, texts), strict=True):
            self._count(found, group, good)
        for group, good in zip([f"images: {i.group}" for i in images], self._images(name, images), strict=True):
            self._count(found, group, good)

    @staticmethod
    def _count(found: dict[str, tuple[int, int]], group: str, good: bool) -> None:
        right, total = found.get(group, (0, 0))
        found[group] = (right + good, total + 1)

    def _texts(self, name: str, items: Sequence[evaluate_text.TextItem]) -> list[bool]:
        prompts = [ChatPrompt(({"role": "user", "content": item.question},)) for item in items]
        own = in_format(spec(evaluate_text.FOLDER, vision=False), name)
        replies = _replies(own, prompts, evaluate_text.MAX_NEW_TOKENS)
        return [item.is_right(*reply) for item, reply in zip(items, replies, strict=True)]

    def _images(self, name: str, items: Sequence[evaluate_images.ImageItem]) -> list[bool]:
        own = in_format(spec(evaluate_images.FOLDER, vision=True), name)
        prompts = [_about(item.images, item.question) for item in items]
        replies = _replies(own, prompts, evaluate_images.MAX_NEW_TOKENS)
        return [reply == (item.answer, True) for item, reply in zip(items, replies, strict=True)]

    def table(self) -> str:
        """Return the share of right answers by group and over all."""
        names = [*self.right]
        groups = [*self.right[names[0]]]
        cells = [(group, *(f"{_percent([self.right[name][group]]):.1f}" for name in names)) for group in groups]
        cells.append(("all", *(f"{self.percent(name):.2f}" for name in names)))
        return record.table(("held-out group, % right", *names), cells)

    def percent(self, name: str) -> float:
        """Return the share of right answers of a format over all groups, in percent."""
        return _percent([*self.right[name].values()])

    def judge(self) -> list[Verdict]:
        """Return the verdict on int8 beside float32, where both were asked."""
        if not {"float32", "int8"} <= self.right.keys():
            return []
        lost = self.percent("float32") - self.percent("int8")
        return [judged(f"at most {LOST_TARGET:g} points lost to int8", lost <= LOST_TARGET, f"{lost:.2f}")]


def _percent(counts: Sequence[tuple[int, int]]) -> float:
    return 100 * sum(right for right, _ in counts) / sum(total for _, total in counts)


def _about(images: Sequence[Image.Image], question: str) -> ChatPrompt:
    encoded = []
    for image in images:
        data = BytesIO()
        image.save(data, "PNG")
        encoded.append(check_header(data.getvalue()))
    content = [*({"type": "image"} for _ in encoded), {"type": "text", "text": question}]
    return ChatPrompt(({"role": "user", "content": content},), tuple(encoded))


def _replies(own: ModelSpec, prompts: Sequence[ChatPrompt], tokens: int) -> list[tuple[str, bool]]:
    """Return text and whether it ended, greedily, of each prompt."""
    places = 2 * len(prompts)  # one client may not have all of them
    engine = LLMEngine(own, EngineConfig(max_num_seqs=SLOTS, max_waiting=places))
    engine.start()
    try:
        asked = [
            engine.submit(
                GenerationRequest(str(n), p, SamplingParams(tokens, 0.0), queue_timeout=TIMEOUT, timeout=TIMEOUT)
            )
            for n, p in enumerate(prompts)
        ]
        answers = [generation.result() for generation in asked]
    finally:
        engine.stop(0.0)
    return [(answer.text, answer.finish_reason == "stop") for answer in answers]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "error", "answers"))
    parser.add_argument("--text", type=Path, help="a text model (by default that of benchmarks.make_model --kind wide)")
    parser.add_argument("--formats", type=lambda text: text.split(","), default=[*FORMATS])
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16], help="numbers of sequences")
    parser.add_argument("--share", type=float, default=0.25, help="share of the held-out questions")
    add_run_options(parser, None, rounds=3)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, threads: Callable[[int], None] = torch.set_num_threads) -> int:
    """Measure, print and write the results; return the exit status, 1 if a target is missed."""
    options = arguments(argv)
    keep_to_core(options.core)
    threads(1)
    found = record.facts(["torch", "transformers", "numpy"])
    figures: dict[str, object] = {"formats": options.formats}
    verdicts: list[Verdict] = []
    if options.what == "answers":
        answers = Answers(options.share)
        for name in options.formats:
            answers.ask(name)
        table, figures["right"], verdicts = answers.table(), answers.right, answers.judge()
    else:
        with checkpoint("wide", options.text) as folder:
            if options.what == "error":
                errors = measure_errors(folder, options.formats)
                table, figures["errors"] = error_table(errors), errors
            else:
                benches = measure_speed(folder, options.formats, options.c, options.rounds)
                table, verdicts = speed_table(benches), judge_speed(benches)
                figures["speeds"] = {name: one.speeds for name, one in benches.items()}
                figures["loading"] = {name: one.loading for name, one in benches.items()}
    title = {"speed": "Speed", "error": "Errors", "answers": "Held-out answers"}[options.what]
    name = options.name or f"weights-{options.what}"
    tables = [table, *map(str, verdicts)]
    path = record.write(name, found, figures, f"{title} by the format of weights", tables, options.results)
    print(*tables, path, sep="\n\n")
    return exit_status(verdict.word for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
