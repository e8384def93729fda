"""The engine: one model behind the `Backend` interface, with continuous batching on one thread.

A request is admitted, tokenized and queued in the caller's thread; from then on the engine's thread owns it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from engine.admission import make_sequence, sequence_of
from engine.backend import Generation
from engine.cores import CORES
from engine.counting import CountingRoom
from engine.engine_core import Counters, EngineCore
from engine.engine_loop import EngineLoop
from engine.errors import Message, NotReady, Overloaded, RetryLater, StartError
from engine.faults import is_memory
from engine.loading.control_groups import usable_cores
from engine.loading.host import reserved_bytes
from engine.loading.loader import LoadedModel, load_model
from engine.loading.memory_budget import check_budget, log_use, plan_budget
from engine.loading.quantization import naming_damage
from engine.loading.selfcheck import check_logits, largest_prompts
from engine.loading.vocabulary import vocabulary_of
from engine.model.runners import make_runner
from engine.prefix_scopes import PrefixScopes, constant_heads
from engine.schedule.block_pool import BLOCK, SCRAP, BlockPool
from engine.schedule.in_flight import Wake
from engine.schedule.plan import Plan
from engine.schedule.sequence import Sequence
from engine.schedule.waiting_room import WaitingRoom
from engine.text.prompt import PreparedPrompt
from engine.types import (
    BackendState,
    BackendStats,
    DetokenizeRequest,
    EngineConfig,
    GenerationRequest,
    ModelInfo,
    ModelSpec,
    Progress,
    SamplingParams,
    Spelled,
    Status,
    TokenizeRequest,
    TokensPrompt,
    Vocabulary,
)
from engine.wanted import Wanted

HOPELESS_STALL = 3  # times `stall_seconds` after which a step is not expected to return
WAITING_TOKENS_SHARE = 0.5  # of the tokens that a full queue of the longest prompts would hold
END_GRACE = 5.0  # seconds for the thread to end once it is stopped

Load = Callable[[ModelSpec, Callable[[Progress], None], int], LoadedModel]


class LLMEngine:
    """Backend over continuous batching. See `Backend` for the contract of each method.

    load: how the model is loaded; make_runner: what computes its steps; clock: seconds, monotonic.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: EngineConfig,
        load: Load = load_model,
        make_runner: Callable[..., Any] = make_runner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._config, self._load, self._clock = spec, config, load, clock
        self._make_runner = make_runner
        places = config.max_num_seqs + config.max_waiting  # all wait for a moment, also those that find a slot free
        waiting_tokens = int(WAITING_TOKENS_SHARE * places * config.max_model_len)
        self._room = WaitingRoom(places, waiting_tokens, clock, slots=config.max_num_seqs)
        self._loop = EngineLoop(spec.name, self._room, self._new_core, clock, torch.inference_mode)
        self._counters = Counters()
        self._info = ModelInfo.of(spec, config.max_model_len)
        self._loaded: LoadedModel | None = None
        self._vocabulary: Vocabulary | None = None
        self._runner: Any = None
        self._cache_tokens = self._probes = 0
        self._scopes = PrefixScopes(config.prefix_sharing)
        self._counting = CountingRoom()
        self._lock = threading.Lock()  # guards the three fields below
        self._status = Status.LOADING
        self._reason = "the model is loading"
        self._progress = Progress(Message("stage_starting", "starting"))

    @property
    def info(self) -> ModelInfo:
        return self._info

    def vocabulary(self) -> Vocabulary | None:
        return self._vocabulary

    def start(self) -> None:
        try:
            self._loop.start(self._load_and_warm)
        except BaseException:
            self._move(Status.DEAD, "the model could not be loaded")
            raise
        self._move(Status.READY, "", only_from=Status.LOADING)

    def submit(self, request: GenerationRequest) -> Generation:
        arrival = self._clock()
        self._check_ready()
        self._room.admit(request.client)
        try:
            return self._enqueue(request, arrival)
        except BaseException:
            self._room.give_up(request.client)
            raise

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        with self._wanted(request) as (loaded, wanted):
            return self._counting.tokenize(loaded, request.prompt, wanted)

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        with self._wanted(request) as (loaded, wanted):
            return self._counting.detokenize(loaded, request.token_ids, wanted)

    def would_refuse(self, client: str) -> RetryLater | None:
        return self._not_ready() or self._room.would_refuse(client)

    def most_at_once(self) -> int:
        return self._room.most_of_one

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Wake) -> Generation | None:
        arrival, client = self._clock(), request.client
        self._check_ready()
        if not self._room.admit_when_free(client, alone, wake):
            return None
        try:
            return self._enqueue(request, arrival, of_batch=True)
        except Overloaded:
            self._room.give_up_for_now(client, alone, wake)
            return None
        except BaseException:
            self._room.give_up(client, of_batch=True)
            raise

    def stop_waiting(self, wake: Wake) -> None:
        self._room.stop_waiting(wake)

    def state(self) -> BackendState:
        with self._lock:
            status, reason, progress = self._status, self._reason, self._progress
        if status is Status.LOADING:
            return BackendState(status, reason, progress)
        if status is Status.DEAD:
            return BackendState(status, reason, restart_needed=True)
        if self._loop.lost:
            return BackendState(Status.DEAD, "the engine died and cannot be restarted here", restart_needed=True)
        stalled = self._clock() - self._loop.beat if self._pending() else 0.0
        if stalled > self._config.stall_seconds:
            hopeless = stalled > HOPELESS_STALL * self._config.stall_seconds
            return BackendState(Status.STALLED, "the model is stalled", restart_needed=hopeless)
        return BackendState(status, reason, progress)

    def stats(self) -> BackendStats:
        core, counters = self._loop.core, self._counters
        running = [] if core is None else list(core.scheduler.running)
        return BackendStats(
            num_requests_running=len(running),
            num_requests_waiting=max(0, self._room.num_in_flight() - len(running)),
            max_num_seqs=self._config.max_num_seqs,
            max_waiting=self._config.max_waiting,
            kv_cache_tokens_used=0 if core is None else core.scheduler.pool.used * BLOCK,
            kv_cache_tokens_capacity=self._cache_tokens,
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generation_tokens_total=counters.generation_tokens,
            nan_logits_total=counters.nan_logits,
            preemptions_total=counters.preemptions,
            draft_tokens_total=counters.draft_tokens,
            accepted_draft_tokens_total=counters.accepted_draft_tokens,
            engine_restarts_total=self._loop.deaths,
            steps_total=counters.steps,
            seconds_since_step=self._clock() - self._loop.beat,
            estimated_wait_seconds=self._room.estimated_wait(),
        )

    def drain(self) -> None:
        self._move(Status.DRAINING, "the service is stopping", unless=Status.DEAD)

    def stop(self, timeout: float) -> None:
        self.drain()
        self._room.wait_until_empty(timeout)
        self._loop.end(END_GRACE)

    # Called by the caller's thread.

    def _check_ready(self) -> None:
        if (refusal := self._not_ready()) is not None:
            raise refusal

    def _not_ready(self) -> NotReady | None:
        state = self.state()
        return None if state.status is Status.READY else NotReady(f"The model is not ready: {state.reason}.")

    @contextmanager
    def _wanted(self, request: TokenizeRequest | DetokenizeRequest) -> Iterator[tuple[LoadedModel, Wanted]]:
        deadline = self._clock() + request.timeout
        self._check_ready()
        assert self._loaded is not None
        wanted = Wanted(deadline, request.client, self._clock)
        with request.cancellation.notifying(wanted.cancel):
            yield self._loaded, wanted

    def _enqueue(self, request: GenerationRequest, arrival: float, of_batch: bool = False) -> Generation:
        assert self._loaded is not None
        wanted = Wanted(arrival + min(request.queue_timeout, request.timeout), request.client, self._clock)
        with request.cancellation.notifying(wanted.cancel):
            sequence = make_sequence(
                self._loaded,
                request,
                arrival,
                self._notify_abort,
                self._clock,
                self._room.queue_position,
                self._scopes,
                wanted,
            )
        self._room.put(sequence, of_batch)
        self._loop.wake()
        return sequence.generation

    def _pending(self) -> bool:
        core = self._loop.core
        return len(self._room) > 0 or (core is not None and bool(core.scheduler.running))

    def _notify_abort(self) -> None:
        """Notify the thread of an abort. The caller may hold the generation's lock, so this takes none."""
        self._room.notify_abort()
        self._loop.wake()

    # Called by the engine's thread.

    def _new_core(self) -> EngineCore:
        loaded = self._loaded
        assert loaded is not None
        return EngineCore(
            self._room,
            self._runner,
            BlockPool(self._cache_tokens // BLOCK + 1, self._config.prefix_cache),
            self._config,
            loaded.eos_token_ids,
            self._counters,
            self._clock,
        )

    def _load_and_warm(self) -> None:
        config, on_cpu = self._config, self._spec.device_type == "cpu"
        if on_cpu:
            with CORES.step(config.cpu_threads or usable_cores(), id(self)) as threads:
                torch.set_num_threads(threads)
        else:  # pragma: no cover - CUDA; the current GPU is a property of the thread
            torch.cuda.set_device(torch.device(self._spec.device).index or 0)
        reserved = reserved_bytes(self._spec.device)
        loaded = self._load(self._spec, self._report, config.max_model_len)
        self._report(Progress(Message("stage_cache", "allocating the KV cache")))
        budget = plan_budget(loaded.model, config, loaded.max_model_len, self._spec)
        check_budget(self._spec, config, budget)
        self._cache_tokens = budget.cache_tokens // BLOCK * BLOCK
        num_blocks = self._cache_tokens // BLOCK + 1
        length = loaded.max_model_len
        with naming_damage(self._spec):
            self._runner = self._make_runner(loaded.model, num_blocks, config, length, self._report, self._spec)
        self._report(Progress(Message("stage_check", "checking the model")))
        check_logits(self._spec, loaded.preparer, partial(self._first_logits, loaded), loaded.max_model_len)
        self._runner.check(partial(self._probe, loaded))
        if not on_cpu:  # where memory is set apart, and kernels are chosen for each size
            self._compute_largest_steps(loaded)
        self._vocabulary = vocabulary_of(loaded)
        self._scopes = PrefixScopes(config.prefix_sharing, constant_heads(loaded.preparer, self._spec.system_prompt))
        self._loaded = loaded
        self._info = ModelInfo.of(
            self._spec,
            loaded.max_model_len,
            loaded.generation_defaults,
            loaded.tools,
            loaded.identity,
            loaded.preparer.image_pixels,
        )
        log_use(self._spec, budget, reserved_bytes(self._spec.device) - reserved)

    def _first_logits(self, loaded: LoadedModel, prompt: PreparedPrompt) -> torch.Tensor:
        """Return the logits after a fixed prompt, computed before any request is served."""
        sequence = self._probe(loaded, prompt)
        self._runner.begin(sequence)
        logits: torch.Tensor = self._runner.logits(sequence)
        return logits

    def _compute_largest_steps(self, loaded: LoadedModel) -> None:
        """Compute a step of all tokens that it may have and one of the largest image, so that no client is the first.

        Raises StartError where one fails.
        """
        tokens = self._config.max_num_batched_tokens
        for prompt in largest_prompts(loaded.preparer, tokens, loaded.max_model_len):
            sequence = self._probe(loaded, prompt)
            try:
                self._runner.begin(sequence)
                self._runner.run(Plan(prefill=[(sequence, min(sequence.remaining, tokens))]))
                self._runner.zero(sequence.blocks)
            except Exception as error:  # of the device, its libraries and its compiler
                setting = "MAX_NUM_BATCHED_TOKENS" if prompt.images is None else "MAX_MODEL_LEN"
                advice = f": lower {setting}" if is_memory(error) else ""
                raise StartError(
                    f"{self._spec.name} failed on a large step ({type(error).__name__}){advice}."
                ) from error

    def _probe(self, loaded: LoadedModel, prompt: PreparedPrompt) -> Sequence:
        """Return a sequence in the first row and blocks, before any request is served."""
        request = GenerationRequest("self-check", TokensPrompt(()), SamplingParams(1))
        sequence = sequence_of(loaded, request, prompt, 0.0, self._notify_abort, self._clock)
        self._probes += 1
        sequence.slot, sequence.order = 0, -self._probes
        sequence.blocks = list(range(SCRAP + 1, SCRAP + 1 + sequence.blocks_needed()))
        return sequence

    def _report(self, progress: Progress) -> None:
        """Show a stage of the load; the bytes of an earlier one stay where it has none."""
        with self._lock:
            self._progress = progress if progress.total_bytes else replace(self._progress, stage=progress.stage)

    def _move(self, status: Status, reason: str, only_from: Status | None = None, unless: Status | None = None) -> None:
        with self._lock:
            if (only_from is None or self._status is only_from) and self._status is not unless:
                self._status, self._reason = status, reason
