"""The places of the reference backend: who runs, who waits, who is refused, and whose time is up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from engine.backend import Generation
from engine.errors import DeadlineExceeded, NotReady, Overloaded, RequestAborted, ServiceError
from engine.text.prompt import PreparedPrompt
from engine.types import GenerationRequest, QueuePosition

RETRY_WHEN_NOT_READY = 5  # seconds
_FIRST_GUESS = 1.0  # seconds a request takes, before one was measured


@dataclass(eq=False)
class Job:
    """One admitted request. Times are on the monotonic clock; taken: when the worker took it."""

    request: GenerationRequest
    prompt: PreparedPrompt
    generation: Generation
    submitted: float
    taken: float = 0.0
    first_token: float | None = None

    @property
    def order(self) -> tuple[int, float]:
        """Return who goes first: by priority, then by arrival."""
        return self.request.priority, self.submitted

    def overdue(self, now: float, limit: float) -> bool:
        """Return whether `limit` seconds have passed since the request came."""
        return now >= self.submitted + limit


class ReferenceQueue:
    """One place to run and `max_waiting` to wait. Any thread may call it; `take`, `step` and `end` are the worker's.

    A job's generation is failed with this queue's lock held; an abort never takes that lock, it only leaves a mark on
    the generation, which is found at the next token or admission.
    """

    def __init__(self, max_waiting: int, clock: Callable[[], float]) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._changed = threading.Condition()  # guards the fields below
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._admitted = 0  # running, waiting, and those whose prompt is being prepared
        self._closed = False
        self._last_step = clock()
        self._seconds_per_request = _FIRST_GUESS

    def admit(self) -> None:
        """Take a place for a request to come. Raises Overloaded at once where none is free."""
        with self._changed:
            self._sweep()
            if self._admitted > self._max_waiting:
                raise Overloaded("The service is busy. Please try again later.", math.ceil(self._wait()))
            self._admitted += 1

    def put(self, job: Job) -> None:
        """Queue an admitted request. Raises NotReady where the queue was closed meanwhile."""
        with self._changed:
            if self._closed:
                raise NotReady("The model is not ready.", RETRY_WHEN_NOT_READY)
            self._waiting.append(job)
            self._changed.notify_all()

    def release(self) -> None:
        """Give back the place of a request that was refused after all."""
        with self._changed:
            self._free()

    def take(self) -> Job | None:
        """Wait for the next request and return it; None once the queue is closed and empty."""
        with self._changed:
            while True:
                self._sweep()
                if self._waiting:
                    job = min(self._waiting, key=lambda waiting: waiting.order)
                    self._waiting.remove(job)
                    self._running = job
                    self._last_step = job.taken = self._clock()
                    return job
                if self._closed:
                    return None
                self._changed.wait()

    def step(self, job: Job) -> None:
        """Note one token of the running request. Raises RequestAborted or DeadlineExceeded where it is to end."""
        with self._changed:
            self._last_step = now = self._clock()
            job.first_token = job.first_token or now
            self._sweep()
            if self._closed or job.generation.aborted:
                raise RequestAborted("The request was stopped before it finished.")
            if job.overdue(now, job.request.timeout):
                raise DeadlineExceeded("The request did not finish in time.")

    def end(self, job: Job) -> None:
        """Free the place of the request that ran, and learn from how long it took."""
        with self._changed:
            self._seconds_per_request += 0.2 * (self._clock() - job.taken - self._seconds_per_request)
            self._running = None
            self._free()

    def wait_until_empty(self, timeout: float) -> None:
        """Wait until no request is admitted any more, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._admitted == 0, timeout)

    def close(self) -> None:
        """Take nothing more; what waits or runs is aborted, the running request at its next token."""
        with self._changed:
            self._closed = True
            self._sweep()
            self._changed.notify_all()

    def fail_all(self, error: ServiceError) -> None:
        """Close, and end everything that is left with `error`: nobody works here any more."""
        with self._changed:
            left = self._waiting + ([self._running] if self._running is not None else [])
            self._closed, self._waiting, self._running = True, [], None
            for job in left:
                job.generation.fail(error)
                self._free()

    def counts(self) -> tuple[int, int]:
        """Return how many requests run and how many wait."""
        with self._changed:
            running = int(self._running is not None)
            return running, self._admitted - running

    def wait_seconds(self) -> float:
        """Return how long a request that came now would wait, from the measured rate."""
        with self._changed:
            return self._wait()

    def queue_position(self, job: Job) -> QueuePosition | None:
        """Return where a job stands, None if it does not wait."""
        with self._changed:
            if job not in self._waiting:
                return None
            before = sum(other.order < job.order for other in self._waiting)
            return QueuePosition(before, (before + 1) * self._seconds_per_request)

    def since_step(self) -> float:
        """Return the seconds since the last token, or since the last request was taken."""
        return self._clock() - self._last_step

    def stalled_for(self) -> float:
        """Return for how many seconds a running request has not moved; 0 while none runs."""
        with self._changed:
            return self.since_step() if self._running is not None else 0.0

    # --- with the lock held ---

    def _wait(self) -> float:
        return self._admitted * self._seconds_per_request

    def _free(self) -> None:
        self._admitted -= 1
        self._changed.notify_all()

    def _sweep(self) -> None:
        """End the waiting requests that were aborted or whose time is up."""
        now = self._clock()
        for job in list(self._waiting):
            if (error := self._reason_to_end(job, now)) is not None:
                self._waiting.remove(job)
                job.generation.fail(error)
                self._free()

    def _reason_to_end(self, job: Job, now: float) -> ServiceError | None:
        if self._closed or job.generation.aborted:
            return RequestAborted("The request was stopped before it finished.")
        if job.overdue(now, min(job.request.queue_timeout, job.request.timeout)):
            return DeadlineExceeded("The request waited too long for its turn.")
        return None
