"""Drives the engine's core step by step in this thread and times the parts of each step.

The engine itself is unchanged: proxies of its runner and decoder record when calls begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.admission import make_sequence
from engine.backend import Generation
from engine.engine_core import Counters, EngineCore
from engine.loading.loader import LoadedModel
from engine.model.kernels.library import load_kernels
from engine.model.runner import ModelRunner
from engine.schedule.block_pool import BlockPool, blocks_for
from engine.schedule.plan import Plan
from engine.schedule.waiting_room import WaitingRoom
from engine.types import EngineConfig, GenerationRequest, Piece

MODEL_CALLS = frozenset({"step", "embed", "rotary", "forward", "logits"})
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


_Stream = tuple[str, Generation, Iterator[Piece]]


class SteppedEngine:
    """The engine's core over a loaded model on the CPU, without a thread of its own; answers are read as streams."""

    def __init__(self, loaded: LoadedModel, config: EngineConfig, quant: str = "none") -> None:
        self.calls = _Calls()
        self._loaded, self._config = loaded, config
        self._room = WaitingRoom(config.max_num_seqs + config.max_waiting, 10**9, slots=config.max_num_seqs)
        rows, length = config.max_num_seqs, loaded.max_model_len
        num_blocks = rows * blocks_for(length) + blocks_for(PREFIX_TOKENS) + 1
        self._runner = ModelRunner(loaded.model, num_blocks, rows, length, load_kernels(), quant)
        self._timed, self._num_blocks = _TimedRunner(self._runner, self), num_blocks
        self.draft(0)

    def draft(self, tokens: int) -> None:
        """Begin again, idle and with an empty prefix cache; a step drafts at most so many tokens of a sequence.

        counters, answers: from now on; the answers are the token ids by the name of the request.
        """
        self._runner.drafts = self._runner.ahead = tokens
        self.counters, self.answers = Counters(), dict[str, tuple[int, ...]]()
        self._core = EngineCore(
            self._room,
            self._timed,
            _TimedPool(self._num_blocks, self),
            self._config,
            self._loaded.eos_token_ids,
            self.counters,
        )

    def closed_loop(self, requests: Iterable[GenerationRequest], clients: int) -> Iterator[Step]:
        """Keep `clients` requests in flight until they run out; yield every step."""
        pending = iter(requests)
        streams: list[_Stream] = []
        while True:
            streams = [stream for stream in streams if not self._ended(stream)]
            while len(streams) < clients and (request := next(pending, None)) is not None:
                streams.append(self._submit(request))
            if (step := self._step()) is None:
                return
            yield step

    def _submit(self, request: GenerationRequest) -> _Stream:
        self._room.admit(request.client)
        sequence = make_sequence(self._loaded, request, time.monotonic(), lambda: None, time.monotonic)
        self._room.put(sequence)
        pieces = sequence.generation.pieces(idle=0.0)
        next(pieces)  # an empty one; from now on the engine treats the answer as streamed
        return request.request_id, sequence.generation, pieces

    def _ended(self, stream: _Stream) -> bool:
        """Return whether an answer has ended; if so, read and keep it, which raises its error."""
        name, generation, pieces = stream
        if generation.done:
            for _ in pieces:
                pass
            self.answers[name] = generation.result().token_ids
        return generation.done

    def _step(self) -> Step | None:
        """Return the next step, None where nothing is left to do; a wait for a grammar's mask is no step."""
        with torch.inference_mode():  # as the engine's thread is
            while True:
                self.calls, began = _Calls(), time.perf_counter()
                if not self._core.step():
                    return None
                if self.calls.runs:
                    return self.calls.step(began, time.perf_counter())
