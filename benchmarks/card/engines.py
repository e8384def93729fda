"""Engines over random weights of the real shapes, their requests of random lengths, and the gaps between tokens."""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import gpu
from benchmarks.card.record import Options, Row, Rows, problem
from benchmarks.harness.figures import percentile
from benchmarks.harness.gpu_report import EngineFigures
from benchmarks.harness.in_process import generation
from benchmarks.harness.shapes import ModelShape, RandomLoad
from benchmarks.harness.workload import Job
from engine import engine_core
from engine.backend import Generation
from engine.loading.loader import LoadedModel
from engine.text.detokenizer import TokenTable
from engine.types import GenerationRequest, ModelSpec, Progress, TokensPrompt

PROMPTS, ANSWERS = (50, 300), (64, 256)
TINY_PROMPTS, TINY_ANSWERS = (5, 30), (4, 12)
MEAN_CONTEXT = sum(PROMPTS) / 2 + sum(ANSWERS) / 4  # tokens of a row at half of its answer
AFTER_ERROR = 0.1  # seconds, so that a model that is lost is not asked without end
FULL = gpu.Sizes(prompt=128, answer=128, context=4096, settle=4.0, window=6.0)


class SpelledLoad(RandomLoad):
    """Random weights whose every token has a text, so that each one is a part of a streamed answer."""

    def __call__(self, spec: ModelSpec, report: Callable[[Progress], None], max_model_len: int) -> LoadedModel:
        loaded = super().__call__(spec, report, max_model_len)
        return replace(loaded, token_table=TokenTable([b"x"] * loaded.vocab_size, cleans=False))


class Started:
    """A running model. facts: what its start took."""

    def __init__(
        self, kind: str, shape: ModelShape, requests: Iterator[GenerationRequest], options: Options, clients: int
    ) -> None:
        self.sizes = gpu.SMALL if options.tiny else FULL
        wanted = argparse.Namespace(device=options.device, c=[clients], sizes=self.sizes, results=Path())
        began = time.perf_counter()
        self.running = gpu.start(kind, shape, requests, wanted, SpelledLoad)
        self.engine = self.running.engine
        self.facts: Row = {"model": shape.name, "seconds": time.perf_counter() - began}
        if options.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            self.facts |= {"GB allocated": torch.cuda.memory_allocated() / 1e9, "GB used": (total - free) / 1e9}
        self.facts["tokens of cache"] = self.engine.stats().kv_cache_tokens_capacity

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.stop(0.0)


def random_lengths(shape: ModelShape, options: Options, seed: int = 0) -> Iterator[GenerationRequest]:
    """Yield requests of random tokens without end: prompts of 50 to 300 tokens, answers of 64 to 256."""
    rng = random.Random(seed)
    prompts, answers = (TINY_PROMPTS, TINY_ANSWERS) if options.tiny else (PROMPTS, ANSWERS)
    for number in itertools.count():
        yield one_request(shape, rng.randint(*prompts), rng.randint(*answers), number)


def one_request(shape: ModelShape, prompt: int, answer: int, number: int) -> GenerationRequest:
    """Return a request of `prompt` random tokens for exactly `answer` tokens; the number is its seed."""
    rng = random.Random(number)
    ids = tuple(rng.randrange(shape.language["vocab_size"]) for _ in range(prompt))
    return generation(TokensPrompt(ids), Job("", answer, temperature=0.7), number)


def figures_row(name: str, figures: EngineFigures, most: float | None = None) -> Row:
    """Return one load's figures as a row; most: tokens per second that the memory allows."""
    return {
        "load": name,
        "tokens/s": figures["tokens_per_second"],
        "of the memory's limit": None if most is None else f"{figures['tokens_per_second'] / most:.0%}",
        "step, ms": figures["step_ms"],
        "first token p50, ms": figures["first_text_ms"]["p50"],
        "first token p95, ms": figures["first_text_ms"]["p95"],
        "per token p50, ms": figures["per_token_ms"]["p50"],
        "per token p95, ms": figures["per_token_ms"]["p95"],
        "requests": figures["requests"],
        "failed": figures["failures"],
    }


def unanswered(what: str, answered: float, failed: object) -> Rows:
    """Yield a problem if some requests failed or none was answered."""
    if failed or not answered:
        yield problem(f"{what}: {failed or 'no'} requests failed, {answered:g} answered")


def broken(model: Started) -> Rows:
    """Yield a problem if an engine ever gave logits that are not finite, or had to be started again."""
    stats = model.engine.stats()
    for name, count in (("not finite", stats.nan_logits_total), ("restarts", stats.engine_restarts_total)):
        if count:
            yield problem(f"{model.facts['model']}: {name}: {count}")


class Reader:
    """A client that streams one answer after another and notes when each token came, from `start` until `stop`."""

    def __init__(self, model: Started, requests: Iterator[GenerationRequest]) -> None:
        self._model, self._requests = model, requests
        self._stopping = False
        self._gaps: list[tuple[float, float]] = []  # (when, seconds since the token before it)
        self.errors: list[str] = []
        self._current: Generation | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def gaps(self, since: float) -> list[float]:
        """Return the seconds between tokens that came after `since` on the clock of perf_counter."""
        return [gap for when, gap in list(self._gaps) if when - gap >= since]

    def stop(self) -> None:
        """Abort the answer in progress."""
        self._stopping = True
        if self._current is not None:
            self._current.abort()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._read(next(self._requests))
            except Exception as error:  # whatever ends an answer is told, and waited for by nobody
                if not self._stopping:
                    self.errors.append(type(error).__name__)
                    time.sleep(AFTER_ERROR)

    def _read(self, request: GenerationRequest) -> None:
        self._current = self._model.engine.submit(request)
        last: float | None = None
        for piece in self._current.pieces():
            now = time.perf_counter()
            if last is not None and piece.token_ids:
                self._gaps.append((now, (now - last) / len(piece.token_ids)))
            last = now


@contextmanager
def every_token_streamed() -> Iterator[None]:
    """Let answers be streamed token by token, whatever the time between."""
    before, engine_core.STREAM_INTERVAL = engine_core.STREAM_INTERVAL, 0.0
    try:
        yield
    finally:
        engine_core.STREAM_INTERVAL = before


def gaps_row(name: str, readers: Sequence[Reader], since: float) -> Row:
    """Return the percentiles of the gaps of these readers, in milliseconds."""
    gaps = [gap * 1e3 for reader in readers for gap in reader.gaps(since)]
    spread: Row = {f"p{share}, ms": percentile(gaps, share) for share in (50, 95, 99)}
    errors = sum(len(reader.errors) for reader in readers)
    return {"rows": name, "gaps": len(gaps), **spread, "longest, ms": max(gaps, default=None), "failed": errors}
