"""The core of the engine: schedule, run, postprocess. It runs on the engine's thread only.

A sequence fails alone: a step that raises is run again in halves until the sequence at fault is found. A step that does
not fit into memory shrinks the same way, down to a part of one prompt. An error that belongs to no sequence leaves this
module and ends the loop; `engine_loop` handles it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from engine.errors import ModelError, ServiceError, forget_frames
from engine.faults import Inconsistent, is_memory, raise_if_poisoned
from engine.model.choice import Choice
from engine.schedule.block_pool import BlockPool
from engine.schedule.plan import Plan
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Phase, Sequence
from engine.schedule.waiting_room import WaitingRoom
from engine.types import EngineConfig, FinishReason

log = logging.getLogger("avito_ai.engine")

GRAMMAR_PAUSE = 0.002  # seconds between two looks where nothing but masks of grammars is waited for
GRAMMAR_SECONDS = 0.03  # of a step, after which no further row of a grammar takes its token
STREAM_INTERVAL = 0.02  # seconds between two parts of a streamed answer, at least

OUT_OF_MEMORY = "The model ran out of memory for this request."
MODEL_FAILED = "The model failed on this request."
NOT_FINITE = "The model produced invalid output (NaN) for this request."


class LaunchedStep(Protocol):
    """A launched step. sequences: those that sample a token in it, with the order of their start."""

    sequences: list[tuple[Sequence, int]]

    def choose(self) -> None:
        """Have its tokens chosen, which a grammar allows once it has accepted those of the step before."""

    def collect(self) -> list[tuple[Sequence, int, Choice]]:
        """Wait for the step; return each sequence that sampled, the order of its start then, and its choice."""


class Runner(Protocol):
    """Computes the steps: `ModelRunner`, or a scripted one in tests.

    A runner on a device of its own also has `launch(plan) -> LaunchedStep`, so that the next step is launched before
    the tokens of the last one are read. It counts these for penalties; a grammar is the host's: a step with one is
    computed meanwhile too, and chooses its tokens afterwards.
    """

    ahead: int  # for how many tokens beyond its last one a running sequence needs blocks
    drafts: int  # how many drafted tokens of a sequence a step may compute

    def begin(self, sequence: Sequence) -> None: ...
    def run(self, plan: Plan) -> list[tuple[Sequence, Choice]]: ...
    def zero(self, blocks: list[int]) -> None: ...
    def not_finite(self, blocks: list[int]) -> list[int]: ...
    def discard(self) -> None: ...


@dataclass
class Counters:
    """Totals that only grow; the engine's thread writes them, any thread reads them."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    nan_logits: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


class EngineCore:
    """Everything between the waiting room and finished answers.

    pool: the blocks of the runner's KV cache, none in use.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        room: WaitingRoom,
        runner: Runner,
        pool: BlockPool,
        config: EngineConfig,
        eos_token_ids: frozenset[int],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room, self._runner, self._clock = room, runner, clock
        self._eos_token_ids = eos_token_ids
        self._counters = counters
        self._launch: Callable[[Plan], LaunchedStep] | None = getattr(runner, "launch", None)
        self._in_flight: tuple[LaunchedStep, list[Sequence]] | None = None  # with those whose token does not count
        self._grammars_until = 0.0
        self._decoded = 0  # rows of a step without prompts, which tells how long such a step takes
        self.scheduler = Scheduler(
            room,
            pool,
            config.max_num_seqs,
            config.max_num_batched_tokens,
            self._begin,
            config.step_overhead,
            runner.ahead,
            runner.drafts,
        )

    def step(self) -> bool:
        """Compute one step of all running sequences; return False if there was nothing to do."""
        began = self._clock()
        self._end_overdue()
        plan = self._schedule()
        if not plan and self._in_flight is None:
            if not self.scheduler.waits_for_grammars:
                return False
            time.sleep(GRAMMAR_PAUSE)
            return True
        if self._launch is None:
            self._decoded = 0
            self._postprocess(self._run(plan))
            if self._decoded:
                self.scheduler.drafts.learn(self._decoded, self._clock() - began)
        else:
            self._run_ahead(plan, self._launch)
        return True

    def check_idle(self) -> None:
        """Raise Inconsistent if a slot, a block or a request in flight has no owner."""
        wrong = self.scheduler.check() or self._room.check(self.scheduler.running)
        if wrong is not None:
            raise Inconsistent(wrong)

    def fail_all(self, kind: type[ServiceError], message: str) -> None:
        """Fail every sequence, running and waiting, each with an error of its own; no step may follow."""
        for sequence in [*self.scheduler.running, *self._room.clear()]:
            sequence.generation.fail(kind(message), sequence.spent(self._clock()))

    def clean(self) -> None:
        """Zero the blocks of the running sequences, and discard the step in flight; no step may follow."""
        self._runner.discard()
        self._runner.zero(sorted({block for sequence in self.scheduler.running for block in sequence.blocks}))

    def _end_overdue(self) -> None:
        now = self._clock()
        for sequence, error in self.scheduler.ended(now, self._room.abort_of_running()):
            self._fail(sequence, error)
        for sequence, error in self._room.sweep(now):
            sequence.generation.fail(error, sequence.spent(now))

    def _schedule(self) -> Plan:
        while (victim := self.scheduler.sequence_to_preempt()) is not None:
            self._zero_unproven(victim, self.scheduler.preempt(victim))
            self._counters.preemptions += 1
        return self.scheduler.schedule()

    def _begin(self, sequence: Sequence) -> bool:
        first = sequence.started_at is None
        if first:
            sequence.started_at = self._clock()
        try:
            self._runner.begin(sequence)
        except Exception as error:
            self._fail_sequence(sequence, error)
            return False
        if first:
            # What is public may have been computed for anybody, and the client is told of its own only.
            sequence.cached_tokens = max(0, sequence.num_computed - sequence.scope.public_tokens)
            self._counters.prompt_tokens += sequence.num_prompt
            self._counters.cached_tokens += sequence.cached_tokens
        return True

    def _zero_unproven(self, sequence: Sequence, freed: list[int]) -> None:
        """Zero what a sequence leaves before any logits have shown that its values are finite."""
        if not sequence.num_output:
            self._runner.zero(freed)

    def _run(self, plan: Plan) -> list[tuple[Sequence, Choice]]:
        try:
            choices = self._runner.run(plan)
        except Exception as error:
            parts = (plan,) if plan.drop_drafts() else self._split_or_fail(plan, error)
        else:
            if not plan.prefill:
                self._decoded = len(plan.decode) + sum(len(sequence.drafts) for sequence in plan.decode)
            for sequence, count in plan.rows:
                sequence.num_computed += count
            return choices
        # Outside the handler, so that the memory of the failed step is free again.
        return [row for part in parts if part.rows[0][0].phase is Phase.RUNNING for row in self._run(part)]

    def _run_ahead(self, plan: Plan, launch: Callable[[Plan], LaunchedStep]) -> None:
        """Launch a step, then read the tokens of the one before it while the device computes."""
        failure = self._launch_and_collect(plan, launch)
        if failure is not None and (left := plan.running()):
            for part in self._split_or_fail(left, failure):
                if part := part.running():  # of one sequence, both halves: the first may have ended it
                    self._postprocess(self._run(part))

    def _launch_and_collect(self, plan: Plan, launch: Callable[[Plan], LaunchedStep]) -> Exception | None:
        """Launch a step and read the one before it; return why it could not be launched, or its tokens not be chosen.

        The failed step is held by nothing then but that error.
        """
        launched, failure = None, None
        try:
            launched = launch(plan) if plan else None
        except Exception as error:
            failure = error
        if launched is not None:
            for sequence, count in plan.rows:
                sequence.num_computed += count
        again = self._collect()
        if launched is not None:
            failure = self._choose(plan, launched, again)
        return failure

    def _choose(self, plan: Plan, launched: LaunchedStep, again: list[Sequence]) -> Exception | None:
        """Have the tokens of a launched step chosen; return why that failed: it is then as if it were not launched.

        again: the sequences whose token of the step before was not taken; what this one computes of them is void.
        """
        failed: Exception | None = None
        try:
            launched.choose()
        except Exception as error:
            failed, undone = error, plan.rows
        else:
            undone = [row for row in plan.rows if row[0] in again]
            self._in_flight = launched, again
            for sequence, _ in launched.sequences:
                sequence.pending += sequence not in again
        for sequence, count in undone:
            sequence.num_computed -= count
        return failed

    def _collect(self) -> list[Sequence]:
        """Read and process the tokens of the step in flight, except for sequences that have left since its launch.

        Returns the sequences whose token was not taken.
        """
        if self._in_flight is None:
            return []
        (launched, void), self._in_flight = self._in_flight, None
        choices = []
        for sequence, order, choice in launched.collect():
            if sequence.phase is Phase.RUNNING and sequence.order == order and sequence not in void:
                sequence.pending -= 1
                choices.append((sequence, choice))
        return self._postprocess(choices)

    def _split_or_fail(self, plan: Plan, error: Exception) -> tuple[Plan, ...]:
        """Return what to run in place of a failed step: its halves, or nothing once the sequence at fault is found.

        The error gives up its frames, which hold the memory of the failed step: the halves may need it.
        """
        raise_if_poisoned(error)
        rows = plan.rows
        if len(rows) == 1 and (rows[0][1] == 1 or not is_memory(error)):
            self._fail_sequence(rows[0][0], error)
            return ()
        log.warning("A step of %d sequences failed (%s); running it in halves.", len(rows), type(error).__name__)
        forget_frames(error)
        return plan.halves()

    def _fail_sequence(self, sequence: Sequence, error: Exception) -> None:
        raise_if_poisoned(error)
        if isinstance(error, ServiceError):
            log.warning("[%s] The sequence failed: %s", sequence.request.request_id, type(error).__name__)
            failure: ServiceError = error
        else:
            log.error("[%s] The model failed on this sequence.", sequence.request.request_id, exc_info=error)
            failure = ModelError(OUT_OF_MEMORY if is_memory(error) else MODEL_FAILED)
        forget_frames(error)  # before its blocks are zeroed, which takes memory too
        self._fail(sequence, failure, zero=True)

    def _postprocess(self, choices: list[tuple[Sequence, Choice]]) -> list[Sequence]:
        """Take the tokens of a step; return the sequences whose token was not taken and is chosen again."""
        self._counters.steps += 1
        now = self._clock()
        self._grammars_until = now + GRAMMAR_SECONDS
        if self._runner.drafts:
            self._count_drafts(choices)
        before, again = None, []
        for sequence, choice in choices:
            if sequence is before:  # its draft was right, and is a token now
                if sequence.phase is not Phase.RUNNING:
                    continue
                sequence.num_computed += 1
            before = sequence
            if not choice.finite or not (sequence.scores is None or sequence.scores.finite):
                self._reject(sequence)
                continue
            try:
                if not self._accept(sequence, choice, now):
                    again.append(sequence)
            except Exception as error:
                self._fail_sequence(sequence, error)
        for sequence, _ in choices:
            if sequence.sampling.token_mask is not None and sequence.phase is Phase.RUNNING:
                sequence.sampling.token_mask.prepare()
        return again

    def _count_drafts(self, choices: list[tuple[Sequence, Choice]]) -> None:
        """Count the drafts of a step. choices: of each sequence one, and another for each draft that was right."""
        for sequence, chosen in groupby(choices, key=itemgetter(0)):
            if sequence.drafts:
                right = sum(1 for _ in chosen) - 1
                self._counters.draft_tokens += len(sequence.drafts)
                self._counters.accepted_draft_tokens += right
                sequence.verified(right)

    def _accept(self, sequence: Sequence, choice: Choice, now: float) -> bool:
        """Append a token to its answer; return False where its grammar did not take it."""
        token_id = choice.token_id
        if not sequence.sampling.max_tokens:
            self._finish(sequence, "length", now)
            return True
        mask = sequence.sampling.token_mask
        if mask is not None and (self._clock() > self._grammars_until or not mask.accept(token_id)):
            sequence.num_computed -= 1  # its last token is computed again, and the next one chosen by the same number
            return False
        sequence.append(token_id)
        self._counters.generation_tokens += 1
        if sequence.first_token_at is None:
            sequence.first_token_at = now
            self._keep_prefix(sequence)
        sequence.add_text(token_id)
        if sequence.token_logprobs is not None and choice.logprob is not None:
            sequence.unsent_logprobs += sequence.token_logprobs.add(choice)
        reason = sequence.finish_reason(token_id, self._eos_token_ids)
        if reason is not None:
            self._finish(sequence, reason, now)
        elif sequence.unsent_text and now - sequence.last_push >= STREAM_INTERVAL and sequence.generation.reading:
            sequence.generation.push(sequence.take_piece(now))
        return True

    def _reject(self, sequence: Sequence) -> None:
        """Fail a sequence whose logits are not finite; what it has computed, and the cause, are not found again."""
        self._counters.nan_logits += 1
        log.error("[%s] The model produced logits that are not finite.", sequence.request.request_id)
        freed = self.scheduler.disown(sequence, self._bad_blocks(sequence))
        self._runner.zero(freed)
        self._fail(sequence, ModelError(NOT_FINITE), zero=True)

    def _bad_blocks(self, sequence: Sequence) -> list[int]:
        """Return the blocks of a sequence that are not finite; all of them where they cannot be looked at."""
        try:
            return self._runner.not_finite(sequence.blocks)
        except Exception as error:  # there may be no memory for it
            raise_if_poisoned(error)
            log.exception("[%s] What it has computed cannot be checked, and is given up.", sequence.request.request_id)
            return list(sequence.blocks)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.unsent_text += sequence.detokenizer.flush()
        if sequence.detokenizer.stopped:  # by what was held until now, such as an incomplete character
            reason = "stop"
        if sequence.token_logprobs is not None:
            sequence.unsent_logprobs += sequence.token_logprobs.flush()
        sequence.generation.push(sequence.take_piece(now, last=True))
        completion = sequence.completion(reason, now)
        self._keep_prefix(sequence)
        self._leave(sequence)
        sequence.generation.finish(completion)

    def _keep_prefix(self, sequence: Sequence) -> None:
        """Let later sequences find what is computed of this one."""
        if sequence.scope.kept:
            self.scheduler.register(sequence)

    def _fail(self, sequence: Sequence, error: ServiceError, zero: bool = False) -> None:
        spent = sequence.spent(self._clock())
        self._leave(sequence, zero)
        sequence.generation.fail(error, spent)

    def _leave(self, sequence: Sequence, zero: bool = False) -> None:
        """Free slot, blocks and capacity before the client learns of the end, so that its next request finds them.

        zero: whether what it computed may not be finite.
        """
        freed = self.scheduler.finish(sequence)
        if zero:
            self._runner.zero(freed)
        else:
            self._zero_unproven(sequence, freed)
        self._room.release(sequence.request.client, sequence)
        sequence.release()
