"""The heart of the engine: schedule, run, postprocess. It lives on the engine's thread alone.

A sequence that fails, fails alone: a step that raises is run again in halves until the one to blame is found, which is
also how a step that does not fit into memory shrinks. What cannot be blamed on a sequence leaves this file as an
exception and ends the thread; `llm_engine` answers that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from engine.errors import ModelError, RequestAborted, ServiceError
from engine.sampler import Choice
from engine.scheduler import Plan, Scheduler
from engine.sequence import Sequence
from engine.types import Completion, EngineConfig, FinishReason, Piece, Timings, TokenLogprob
from engine.waiting_room import WaitingRoom

log = logging.getLogger(__name__)


class Poisoned(Exception):
    """The device can no longer be used by this process; only a new process can help."""


class Inconsistent(Exception):
    """The engine's books are wrong: somebody holds what nobody uses."""


class Runner(Protocol):
    """What computes a step; `ModelRunner`, or a scripted one in tests."""

    def begin(self, sequence: Sequence) -> None: ...
    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]: ...
    def keep_beginning(self, sequence: Sequence) -> None: ...
    def scrub(self, slot: int) -> None: ...


@dataclass
class Counters:
    """Figures that only grow; the engine's thread writes them, anybody reads them."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    nan_logits: int = 0
    preemptions: int = 0


class EngineCore:
    """Everything between the waiting room and finished answers.

    token_text: the text of one token, for log probabilities. clock: seconds, monotonic.
    """

    def __init__(
        self,
        room: WaitingRoom,
        runner: Runner,
        config: EngineConfig,
        eos_token_ids: frozenset[int],
        token_text: Callable[[int], str],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room, self._runner, self._clock = room, runner, clock
        self._eos_token_ids, self._token_text = eos_token_ids, token_text
        self._stream_interval = config.stream_interval
        self._counters = counters
        self.scheduler = Scheduler(room, config.max_num_seqs, config.max_num_batched_tokens, self._begin)

    def step(self) -> bool:
        """Do one step for everybody; False where there was nothing to do."""
        self._end_overdue()
        plan = self._schedule()
        if not plan:
            return False
        self._postprocess(plan, self._run(plan))
        return True

    def check_idle(self) -> None:
        """Raise Inconsistent if a slot is held while nobody runs or waits."""
        if not self.scheduler.running and (wrong := self.scheduler.check()) is not None:
            raise Inconsistent(wrong)

    def fail_all(self, error: ServiceError) -> None:
        """End every sequence, running and waiting, with `error`; the books are of no use afterwards."""
        for sequence in [*self.scheduler.running, *self._room.clear()]:
            self._room.release(sequence.request.client)
            sequence.generation.fail(error)

    # --- schedule ---

    def _end_overdue(self) -> None:
        now = self._clock()
        for sequence, error in self.scheduler.ended(now):
            self._fail(sequence, error)
        for sequence, error in self._room.sweep(now):
            self._room.release(sequence.request.client)
            sequence.generation.fail(error)

    def _schedule(self) -> Plan:
        victim = self.scheduler.sequence_to_preempt()
        if victim is not None:
            self._runner.keep_beginning(victim)
            self.scheduler.preempt(victim)
            self._counters.preemptions += 1
        return self.scheduler.schedule()

    def _begin(self, sequence: Sequence) -> bool:
        first = sequence.started_at is None
        if first:
            sequence.started_at = self._clock()
        try:
            self._runner.begin(sequence)
        except Exception as error:
            self._blame(sequence, error)
            return False
        if first:
            self._counters.prompt_tokens += sequence.num_prompt
            self._counters.cached_tokens += sequence.cached_tokens
        return True

    # --- run ---

    def _run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        try:
            return self._runner.run(plan)
        except Exception as error:
            _raise_if_poisoned(error)
            rows = plan.rows
            if len(rows) == 1:
                self._blame(rows[0][0], error)
                return []
            log.warning("A step of %d sequences failed (%s); trying it in halves.", len(rows), type(error).__name__)
        return [row for half in plan.halves() for row in self._run(half)]

    def _blame(self, sequence: Sequence, error: Exception) -> None:
        _raise_if_poisoned(error)
        log.error("A sequence failed in the model.", exc_info=error)
        slot = sequence.slot
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        self._fail(sequence, ModelError(OUT_OF_MEMORY if memory else MODEL_FAILED))
        self._runner.scrub(slot)

    # --- postprocess ---

    def _postprocess(self, plan: Plan, choices: list[tuple[Sequence, Choice]]) -> None:
        self._counters.steps += 1
        for sequence, count in plan.rows:
            sequence.num_computed += count
        now = self._clock()
        for sequence, choice in choices:
            if choice.finite:
                self._accept(sequence, choice, now)
            else:
                self._reject(sequence)

    def _accept(self, sequence: Sequence, choice: Choice, now: float) -> None:
        token_id = choice.token_id
        sequence.append(token_id)
        self._counters.generation_tokens += 1
        if sequence.first_token_at is None:
            sequence.first_token_at = now
            self._runner.keep_beginning(sequence)
        if sequence.image_embeds is not None:
            sequence.image_embeds = None
        if sequence.sampling.token_mask is not None and not self._follow_grammar(sequence, token_id):
            return
        sequence.unsent_text += sequence.detokenizer.add(token_id)
        sequence.unsent_tokens.append(token_id)
        if choice.logprob is not None:
            sequence.unsent_logprobs.append(self._logprob(choice))
        reason = sequence.finish_reason(token_id, self._eos_token_ids)
        if reason is not None:
            self._finish(sequence, reason, now)
        elif sequence.unsent_text and sequence.generation.streaming:
            if now - sequence.last_push >= self._stream_interval:
                self._push(sequence, now)

    def _reject(self, sequence: Sequence) -> None:
        self._counters.nan_logits += 1
        log.error("[%s] The model gave logits that are not finite.", sequence.request.request_id)
        slot = sequence.slot
        self._fail(sequence, ModelError(NOT_FINITE))
        self._runner.scrub(slot)

    def _follow_grammar(self, sequence: Sequence, token_id: int) -> bool:
        assert sequence.sampling.token_mask is not None
        try:
            sequence.sampling.token_mask.accept(token_id)
        except Exception as error:
            self._blame(sequence, error)
            return False
        return True

    def _logprob(self, choice: Choice) -> TokenLogprob:
        assert choice.logprob is not None
        top = tuple((token, self._token_text(token), value) for token, value in choice.top)
        return TokenLogprob(choice.token_id, self._token_text(choice.token_id), choice.logprob, top)

    def _push(self, sequence: Sequence, now: float) -> None:
        piece = Piece(sequence.unsent_text, tuple(sequence.unsent_tokens), tuple(sequence.unsent_logprobs))
        sequence.text.append(sequence.unsent_text)
        sequence.logprobs += sequence.unsent_logprobs
        sequence.unsent_text, sequence.unsent_tokens, sequence.unsent_logprobs = "", [], []
        sequence.last_push = now
        sequence.generation.push(piece)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.unsent_text += sequence.detokenizer.flush()
        self._push(sequence, now)
        self._runner.keep_beginning(sequence)
        self.scheduler.finish(sequence)
        self._room.release(sequence.request.client)
        sequence.generation.finish(_completion(sequence, reason, now))

    def _fail(self, sequence: Sequence, error: ServiceError) -> None:
        self.scheduler.finish(sequence)
        self._room.release(sequence.request.client)
        sequence.generation.fail(error)


OUT_OF_MEMORY = "The model ran out of memory for this request."
MODEL_FAILED = "The model failed on this request."
NOT_FINITE = "The model's numbers went wrong on this request."
STOPPED = RequestAborted("The service stopped before the request finished.")


def _completion(sequence: Sequence, reason: FinishReason, now: float) -> Completion:
    started = sequence.started_at if sequence.started_at is not None else now
    first = None if sequence.first_token_at is None else sequence.first_token_at - sequence.arrival
    return Completion(
        text="".join(sequence.text),
        finish_reason=reason,
        prompt_tokens=sequence.num_prompt,
        output_tokens=sequence.num_output,
        timings=Timings(started - sequence.arrival, first, now - sequence.arrival),
        logprobs=tuple(sequence.logprobs),
        cached_tokens=sequence.cached_tokens,
    )


def _raise_if_poisoned(error: Exception) -> None:
    """Raise Poisoned for an error after which the device answers nothing any more (a CUDA error is sticky)."""
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        raise Poisoned(str(error)) from error
