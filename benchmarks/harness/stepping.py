"""Drives the engine's core step by step in this thread and times the parts of each step.

The engine itself is unchanged: proxies of its runner and decoder record when calls begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.admission import make_sequence
from engine.backend import Generation
from engine.engine_core import Counters, EngineCore
from engine.loading.loader import LoadedModel
from engine.model.kernels.library import load_kernels
from engine.model.runner import ModelRunner
from engine.schedule.block_pool import BlockPool, blocks_for
from engine.schedule.scheduler import Plan
from engine.schedule.waiting_room import WaitingRoom
from engine.types import EngineConfig, GenerationRequest, Piece

MODEL_CALLS = frozenset({"embed", "rotary", "forward", "logits"})
PREFIX_TOKENS = 4096
PARTS = ("schedule", "prepare", "model", "sample", "postprocess", "keep")


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of one step by part, with its shape: decoding rows, and tokens of prompts.

    schedule: choice of sequences and their blocks, and prefix lookup; prepare: ids, positions and masks; model:
    embedding, layers and head; sample: one token per row; postprocess: text, stop conditions, delivery; keep:
    registration of prefixes.
    """

    rows: int
    prompt_tokens: int
    schedule: float
    prepare: float
    model: float
    sample: float
    postprocess: float
    keep: float

    @property
    def total(self) -> float:
        """The whole step."""
        return self.host + self.model

    @property
    def host(self) -> float:
        """Everything except the model."""
        return self.schedule + self.prepare + self.sample + self.postprocess + self.keep


@dataclass
class _Calls:
    """The calls of one step, each as (start, end)."""

    runs: list[tuple[float, float]] = field(default_factory=list)
    model: list[tuple[float, float]] = field(default_factory=list)
    keep: list[tuple[float, float]] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)

    def step(self, began: float, ended: float) -> Step:
        model, keep = _seconds(self.model), _seconds(self.keep)
        first, last = self.runs[0][0], self.runs[-1][1]
        sample = last - self.model[-1][1]
        return Step(
            rows=len(self.plan.decode),
            prompt_tokens=sum(count for _, count in self.plan.prefill),
            schedule=first - began,
            prepare=last - first - model - sample,
            model=model,
            sample=sample,
            postprocess=ended - last - keep,
            keep=keep,
        )


def _seconds(calls: list[tuple[float, float]]) -> float:
    return sum(ended - began for began, ended in calls)


class _TimedDecoder:
    def __init__(self, decoder: Any, engine: SteppedEngine) -> None:
        self._decoder, self._engine = decoder, engine

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._decoder, name)
        if name not in MODEL_CALLS:
            return value

        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            result = value(*args)
            self._engine.calls.model.append((began, time.perf_counter()))
            return result

        return timed


class _TimedRunner:
    def __init__(self, runner: ModelRunner, engine: SteppedEngine) -> None:
        self._runner, self._engine = runner, engine
        runner.decoder = _TimedDecoder(runner.decoder, engine)  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, plan: Plan) -> Any:
        self._engine.calls.plan = plan
        began = time.perf_counter()
        result = self._runner.run(plan)
        self._engine.calls.runs.append((began, time.perf_counter()))
        return result


class _TimedPool(BlockPool):
    def __init__(self, num_blocks: int, engine: SteppedEngine) -> None:
        super().__init__(num_blocks)
        self._engine = engine

    def register(self, *args: Any) -> list[int]:
        began = time.perf_counter()
        table = super().register(*args)
        self._engine.calls.keep.append((began, time.perf_counter()))
        return table


class SteppedEngine:
    """The engine's core over a loaded model on the CPU, without a thread of its own; answers are read as streams."""

    def __init__(self, loaded: LoadedModel, config: EngineConfig, quant: str = "none") -> None:
        self.calls = _Calls()
        self._loaded = loaded
        self._room = WaitingRoom(config.max_num_seqs + config.max_waiting, 10**9, time.monotonic)
        rows, length = config.max_num_seqs, loaded.max_model_len
        num_blocks = rows * blocks_for(length) + blocks_for(PREFIX_TOKENS) + 1
        runner = ModelRunner(loaded.model, num_blocks, rows, length, load_kernels(), quant)
        self._core = EngineCore(
            self._room,
            _TimedRunner(runner, self),
            _TimedPool(num_blocks, self),
            config,
            loaded.eos_token_ids,
            Counters(),
        )

    def closed_loop(self, requests: Iterable[GenerationRequest], clients: int) -> Iterator[Step]:
        """Keep `clients` requests in flight until they run out; yield every step."""
        pending = iter(requests)
        streams: list[tuple[Generation, Iterator[Piece]]] = []
        while True:
            streams = [stream for stream in streams if not self._ended(stream)]
            while len(streams) < clients and (request := next(pending, None)) is not None:
                streams.append(self._submit(request))
            if (step := self._step()) is None:
                return
            yield step

    def _submit(self, request: GenerationRequest) -> tuple[Generation, Iterator[Piece]]:
        self._room.admit(request.client)
        sequence = make_sequence(self._loaded, request, time.monotonic(), lambda: None, time.monotonic)
        self._room.put(sequence)
        pieces = sequence.generation.pieces(idle=0.0)
        next(pieces)  # an empty one; from now on the engine treats the answer as streamed
        return sequence.generation, pieces

    @staticmethod
    def _ended(stream: tuple[Generation, Iterator[Piece]]) -> bool:
        """Return whether an answer has ended; if so, read it to its end, which raises its error."""
        generation, pieces = stream
        if generation.done:
            for _ in pieces:
                pass
        return generation.done

    def _step(self) -> Step | None:
        self.calls = _Calls()
        began = time.perf_counter()
        if not self._core.step():
            return None
        return self.calls.step(began, time.perf_counter())
