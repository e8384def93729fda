"""Many texts in one request, written while nobody else needs the places: one line of JSON a text, as each is done.

A batch takes the places to run that are free and at least one, so it never fills the waiting room; its texts have the
lower priority, and the engine sends them back to wait when people come. What the engine refuses for lack of places is
tried again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flask import request

from edge.errors import api_body, as_service_error, meaning_of
from edge.request_state import request_state
from engine.backend import Backend, Generation
from engine.errors import Overloaded, RequestAborted, ValidationError
from engine.types import Completion, GenerationRequest, Priority
from routes import sse
from routes.generation import Answer, conversation, finished, sampling
from routes.request_models import TextRequest
from routes.services import services

MODEL = "avibe"
LOOK_AGAIN = 0.05  # seconds between two looks at the places, while all are taken
NOTHING_YET = b"\n"  # a blank line, so that no proxy thinks that the batch is dead

Show = Callable[[Answer], Mapping[str, Any]]


class Batch:
    """The texts of one batch. Made in the request's context; `close` ends it, finished or not.

    show: makes the body of an answer, as the route for one text gives it.
    """

    def __init__(self, asked: Sequence[TextRequest | ValidationError], show: Show) -> None:
        self._backend = backend = services().models.get(MODEL)
        state = request_state()
        self._show, self._request_id, self._began = show, state.request_id, state.began
        self._observer = state.observer
        self._observer.validated(MODEL, backend.info.served_id, len(asked), len(asked), level=logging.DEBUG)
        self._places = _Places(backend)
        self._size = len(asked)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._todo: deque[tuple[int, GenerationRequest]] = deque()
        for index, one in enumerate(asked):
            if isinstance(one, ValidationError):
                self._failed(index, one)
            else:
                self._todo.append((index, self._wanted(backend, index, one)))
        self._release = services().client_watch.watch(request.environ, self.close)
        self._end_trace = self._observer.hold()

    def lines(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield one line a text, in the order in which they end. idle: seconds without one to a sign of life."""
        for _ in range(min(len(self._todo), self._places.most)):
            threading.Thread(target=self._work, name="batch", daemon=True).start()
        told = 0
        while told < self._size:
            try:
                line = self._lines.get(timeout=idle)
            except queue.Empty:
                yield NOTHING_YET
                continue
            if not line:
                return
            yield line
            told += 1

    def close(self) -> None:
        """Make no more tokens for any text, and begin none; harmless when all are done."""
        self._todo.clear()
        self._places.close()
        self._lines.put(b"")  # which ends the lines

    def end(self) -> None:
        """Close, and stop watching the client."""
        self._release()
        self.close()
        self._end_trace()

    def _work(self) -> None:
        while True:
            try:
                index, wanted = self._todo.popleft()
            except IndexError:
                return
            try:
                self._done(index, self._places.run(partial(self._submit, index, wanted), wanted.timeout))
            except Exception as error:
                self._failed(index, error)

    def _submit(self, index: int, wanted: GenerationRequest) -> Generation:
        self._observer.submitting(index, wanted)
        generation = self._backend.submit(wanted)
        self._observer.submitted(index)
        return generation

    def _done(self, index: int, completion: Completion) -> None:
        self._observer.answered(index, completion)
        self._tell(index, self._show(finished(completion, self._began)))

    def _failed(self, index: int, error: Exception) -> None:
        ours = as_service_error(error)
        meaning = meaning_of(ours)
        self._observer.failed(meaning.code, meaning.status, ours.message)
        self._tell(index, api_body(ours, ""))

    def _tell(self, index: int, body: Mapping[str, Any]) -> None:
        line = {"index": index, **body, "request_id": f"{self._request_id}-{index}"}
        self._lines.put(f"{sse.compact(line)}\n".encode())

    def _wanted(self, backend: Backend, index: int, asked: TextRequest) -> GenerationRequest:
        timeout = services().settings.engine.request_timeout
        return GenerationRequest(
            request_id=f"{self._request_id}-{index}",
            prompt=conversation(asked.prompt),
            sampling=sampling(backend, asked),
            client=request_state().client,
            priority=Priority.BATCH,
            queue_timeout=timeout,
            timeout=timeout,
        )


class _Places:
    """The places that one batch takes: those that are free, and always one. Used by all threads of the batch."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._changed = threading.Condition()  # guards the two fields below
        self._running: set[Generation] = set()
        self._closed = False

    @property
    def most(self) -> int:
        """How many texts can ever run at once."""
        return max(1, self._backend.stats().max_num_seqs)

    def run(self, submit: Callable[[], Generation], timeout: float) -> Completion:
        """Wait for a place, generate and return the answer. Raises the typed error that it ends with.

        submit: gives the request to the model; timeout: how long a refusal for lack of places is no error, in seconds.
        """
        give_up = time.monotonic() + timeout
        while True:
            try:
                return self._run(submit, give_up)
            except Overloaded:
                if time.monotonic() >= give_up:
                    raise
                self._pause()

    def close(self) -> None:
        """Abort what runs; let nothing begin."""
        with self._changed:
            self._closed = True
            running = list(self._running)
            self._changed.notify_all()
        for generation in running:
            generation.abort()

    def _run(self, submit: Callable[[], Generation], give_up: float) -> Completion:
        generation = self._begin(submit, give_up)
        try:
            return generation.result()
        finally:
            with self._changed:
                self._running.discard(generation)
                self._changed.notify()

    def _begin(self, submit: Callable[[], Generation], give_up: float) -> Generation:
        with self._changed:
            while not self._closed and self._running and self._full() and time.monotonic() < give_up:
                self._changed.wait(LOOK_AGAIN)
            if self._closed:
                raise RequestAborted("The batch was stopped.")
            generation = submit()
            self._running.add(generation)
            return generation

    def _full(self) -> bool:
        stats = self._backend.stats()
        return stats.num_requests_running + stats.num_requests_waiting >= stats.max_num_seqs

    def _pause(self) -> None:
        with self._changed:
            if not self._closed:
                self._changed.wait(LOOK_AGAIN)
