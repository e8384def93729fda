"""The reference backend: the library's `generate()`, one request at a time, behind the same seam as the engine.

It is what the engine is compared with, and what `ENGINE=reference` runs. One worker thread calls the model; that is
what makes Qwen2.5-VL safe here, which keeps the position offset (`rope_deltas`) of its latest prompt on the module.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from engine.admission import check_lengths
from engine.backend import Generation
from engine.errors import EngineDead, ModelError, NotReady, ServiceError, Unsupported
from engine.loading.loader import LoadedModel, load_model
from engine.loading.selfcheck import check_logits
from engine.reference_queue import RETRY_WHEN_NOT_READY, Job, ReferenceQueue
from engine.reference_run import Answer, NotFinite, first_logits, generate
from engine.types import (
    BackendState,
    BackendStats,
    Completion,
    EngineConfig,
    GenerationRequest,
    ModelInfo,
    ModelSpec,
    Progress,
    SamplingParams,
    Status,
    Timings,
    Vocabulary,
)

log = logging.getLogger(__name__)

Load = Callable[[ModelSpec, Callable[[Progress], None], int], LoadedModel]

_STALLS_FOR_RESTART = 3  # a call that has not moved for so many stall times will not move any more


@dataclass
class _Counts:
    """Figures since the start; only the worker's thread writes them."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    not_finite: int = 0


class ReferenceBackend:
    """Backend over plain `generate()`: one request runs, up to `config.max_waiting` wait. Any thread may call it."""

    def __init__(
        self,
        spec: ModelSpec,
        config: EngineConfig,
        load: Load = load_model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._config = config
        self._load = load
        self._clock = clock
        self._loaded: LoadedModel | None = None
        self._thread: threading.Thread | None = None
        self._queue = ReferenceQueue(config.max_waiting, clock)
        self._counts = _Counts()
        self._lock = threading.Lock()  # guards the two fields below
        self._status = Status.LOADING
        self._progress = Progress("waiting to load")

    @property
    def info(self) -> ModelInfo:
        """Return what is known of the model."""
        spec, loaded = self._spec, self._loaded
        info = ModelInfo(spec.name, spec.served_id, spec.vision, spec.demo, self._config.max_model_len)
        if loaded is None:
            return info
        return replace(info, max_model_len=loaded.max_model_len, generation_defaults=loaded.generation_defaults)

    def vocabulary(self) -> Vocabulary | None:
        return None

    def start(self) -> None:
        """Load and check the model, then start the worker. Raises StartError."""
        if self._config.cpu_threads:
            torch.set_num_threads(self._config.cpu_threads)
        try:
            loaded = self._load(self._spec, self._report, self._config.max_model_len)
            self._report(Progress("checking the model"))
            check_logits(self._spec, loaded.preparer, lambda prompt: first_logits(loaded, prompt), loaded.max_model_len)
        except BaseException:
            self._move(Status.DEAD)
            raise
        self._loaded = loaded
        self._thread = threading.Thread(target=self._work, name=f"reference-{self._spec.name}", daemon=True)
        self._thread.start()
        self._move(Status.READY, only_from=Status.LOADING)

    def submit(self, request: GenerationRequest) -> Generation:
        """Admit a request; see Backend."""
        submitted = self._clock()
        loaded = self._loaded
        if loaded is None or self.state().status is not Status.READY:
            raise NotReady("The model is not ready.", RETRY_WHEN_NOT_READY)
        self._queue.admit()
        try:
            job = self._prepare(loaded, request, submitted)
            job.generation.queue_position = partial(self._queue.queue_position, job)
            self._queue.put(job)
        except BaseException:
            self._queue.release()
            raise
        return job.generation

    def state(self) -> BackendState:
        """Return whether requests are taken."""
        with self._lock:
            status, progress = self._status, self._progress
        if status is Status.LOADING:
            return BackendState(status, "the model is loading", progress)
        if status is Status.DEAD:
            return BackendState(status, "the model does not work any more", restart_needed=True)
        stalled = self._queue.stalled_for()
        if stalled > self._config.stall_seconds:
            hopeless = stalled > _STALLS_FOR_RESTART * self._config.stall_seconds
            return BackendState(Status.STALLED, "the model does not move", restart_needed=hopeless)
        return BackendState(status, "the service is stopping" if status is Status.DRAINING else "")

    def stats(self) -> BackendStats:
        """Return the figures of this moment. A step is one token; there is no cache to measure."""
        running, waiting = self._queue.counts()
        return BackendStats(
            num_requests_running=running,
            num_requests_waiting=waiting,
            max_num_seqs=1,
            max_waiting=self._config.max_waiting,
            prompt_tokens_total=self._counts.prompt_tokens,
            generation_tokens_total=self._counts.output_tokens,
            nan_logits_total=self._counts.not_finite,
            steps_total=self._counts.output_tokens,
            seconds_since_step=self._queue.since_step(),
            estimated_wait_seconds=self._queue.wait_seconds(),
        )

    def drain(self) -> None:
        """Refuse new requests from now on."""
        with self._lock:
            if self._status is not Status.DEAD:
                self._status = Status.DRAINING

    def stop(self, timeout: float) -> None:
        """Drain, wait for the admitted requests, abort what is left after `timeout` seconds, end the thread."""
        self.drain()
        self._queue.wait_until_empty(timeout)
        self._queue.close()
        if self._thread is not None:
            self._thread.join(self._config.stall_seconds)

    # --- in the caller's thread ---

    def _prepare(self, loaded: LoadedModel, request: GenerationRequest, submitted: float) -> Job:
        _refuse_unsupported(request.sampling)
        prompt = loaded.preparer.prepare(request.prompt)
        length = len(prompt.token_ids)
        check_lengths(length, request.sampling, loaded.max_model_len)
        # An abort needs no word to the worker: it looks at the mark on the generation after every token.
        generation = Generation(request.request_id, length, submitted + request.timeout, _nothing, self._clock)
        return Job(request, prompt, generation, submitted)

    # --- the worker's thread ---

    def _work(self) -> None:
        try:
            while (job := self._queue.take()) is not None:
                self._serve(self._loaded, job)
        except BaseException:
            log.exception("%s: the model's thread has ended", self._spec.name)
            self._move(Status.DEAD)
        self._queue.fail_all(EngineDead("The model stopped working under this request."))

    def _serve(self, loaded: LoadedModel | None, job: Job) -> None:
        """Answer one request. Only what poisons the whole process is raised."""
        assert loaded is not None
        answer = Answer(loaded, job.request.sampling, job.generation.push, lambda: self._queue.step(job))
        error = self._run(loaded, job, answer)
        self._counts.prompt_tokens += len(job.prompt.token_ids)
        self._counts.output_tokens += answer.output_tokens
        # The place is free before the client hears of the end, so that its next request finds it.
        self._queue.end(job)
        if error is None:
            job.generation.finish(self._completion(job, answer))
        else:
            job.generation.fail(error)

    def _run(self, loaded: LoadedModel, job: Job, answer: Answer) -> ServiceError | None:
        """Run the model to the end of one answer; return what its client is to hear if it failed."""
        try:
            generate(loaded, job.prompt, job.request.sampling, answer)
        except torch.AcceleratorError:
            raise  # the device's context is gone, and with it every later request
        except ServiceError as error:
            return error
        except Exception as error:
            self._counts.not_finite += isinstance(error, NotFinite)
            log.error("%s: request %s failed (%s)", self._spec.name, job.request.request_id, type(error).__name__)
            return ModelError("The model failed on this request.")
        return None

    def _completion(self, job: Job, answer: Answer) -> Completion:
        assert answer.finish_reason is not None
        first = None if job.first_token is None else job.first_token - job.submitted
        timings = Timings(job.taken - job.submitted, first, self._clock() - job.submitted)
        return Completion(answer.text, answer.finish_reason, len(job.prompt.token_ids), answer.output_tokens, timings)

    # --- status ---

    def _report(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress

    def _move(self, status: Status, only_from: Status | None = None) -> None:
        with self._lock:
            if only_from is None or self._status is only_from:
                self._status = status


def _refuse_unsupported(sampling: SamplingParams) -> None:
    for name in ("logprobs", "token_mask"):
        if getattr(sampling, name) is not None:
            raise Unsupported(f"This backend does not support {name}.", name)


def _nothing() -> None:
    """Leave an abort to be found."""
