"""Many texts in one request: one line of JSON for each, in the order in which they finish.

The texts of a batch take the slots that are free. Of a batch that has none, one text waits in the queue, and all
batches together hold no more of that than one client may: they never fill it. Their texts have the lower priority, and
interactive requests preempt them. The request's own thread does all of it: it submits what the engine has capacity for,
and reads all answers through one mailbox.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import request

from edge import spending
from edge.errors import api_body, as_service_error, meaning_of
from edge.gate import BATCH_MODEL, release_body
from edge.request_state import request_state
from engine.backend import Backend, Generation, Mailbox
from engine.errors import BUSY, Overloaded, RequestAborted, ValidationError, forget_frames
from engine.types import Cancellation, Completion, GenerationRequest, Priority, TextPrompt
from routes import sse
from routes.answer_cache import Keeping
from routes.answer_key import key_of
from routes.chat.models import find_model
from routes.conversation import conversation
from routes.generation import GenerationResult, finished, sampling
from routes.locale import api_sentence
from routes.metering import Meter, RunMeter
from routes.request_models import TextRequest
from routes.services import services
from usage.errors import HeldBack

SINGLE = "api.text_generate"  # the endpoint whose answers are those of a batch's texts
HELD_BACK_SECONDS = 1.0  # between two looks whether a limit has room again
KEEP_ALIVE = b"\n"  # a blank line, so that no proxy closes an idle response

Show = Callable[[GenerationResult], Mapping[str, Any]]


@dataclass(slots=True)
class _Text:
    """A text without an answer yet. give_up: when a lack of capacity becomes its error, on the monotonic clock.

    cache: `hit` or `miss` once its answer was looked for among kept ones; keeping: what keeps it after a miss.
    """

    index: int
    request: GenerationRequest
    give_up: float | None = None
    cache: str | None = None
    keeping: Keeping | None = None

    def start_clock(self) -> float:
        """Return when to give up, counted from the first call."""
        if self.give_up is None:
            self.give_up = time.monotonic() + self.request.timeout
        return self.give_up


class Batch:
    """The texts of one batch. Made in the request's context; `close` ends it early, from any thread.

    show: makes the body of an answer, the same as for a single text; leave: tells that this batch has ended.
    """

    def __init__(
        self, requests: Sequence[TextRequest | ValidationError], show: Show, leave: Callable[[], None]
    ) -> None:
        model, backend = find_model(BATCH_MODEL)
        self._backend, self._leave = backend, leave
        state = request_state()
        self._sentence = api_sentence()
        self._show, self._request_id, self._began = show, state.request_id, state.began
        self._observer = state.observer
        state.fingerprint = backend.info.fingerprint
        self._observer.validated(model, backend.info.served_id, len(requests), len(requests), level=logging.DEBUG)
        self._size, self._answers = len(requests), services().answers
        self._lines: deque[bytes] = deque()
        self._todo: deque[_Text] = deque()
        self._mailbox = Mailbox()
        self._cancellation = Cancellation()
        self._waits = False  # for capacity; the backend may call the mailbox's `wake`
        self._held_back = False  # what is left of a limit may go to other requests of the same account
        self._lock = threading.Lock()  # guards the two fields below
        self._running: dict[int, tuple[_Text, Generation]] = {}
        self._closed = False
        for index, one in enumerate(requests):
            if isinstance(one, ValidationError):
                self._failed(index, one)
            else:
                self._todo.append(_Text(index, self._generation_request(backend, index, one)))
        held = request._get_current_object()  # type: ignore[attr-defined] # a proxy; lines are sent outside of its context
        self._release_body = partial(release_body, held)
        self._meter = Meter(model, backend.info.served_id)
        # What `end` gives back comes last, so that nothing is kept of a batch that could not be made.
        self._reservation = spending.admit(model, backend.info.max_model_len, [])
        self._release: Callable[[], None] | None = services().client_watch.watch(request.environ, self.close)
        self._end_trace = self._observer.hold()

    def lines(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield one line for each text as it finishes, and a blank one after `idle` seconds without any."""
        left, blank_at = self._size, time.monotonic() + idle
        while left and not self._closed:
            self._submit()
            while self._lines:
                yield self._lines.popleft()
                left, blank_at = left - 1, time.monotonic() + idle
            if left and not self._closed and not self._collect(blank_at) and time.monotonic() >= blank_at:
                yield KEEP_ALIVE
                blank_at = time.monotonic() + idle

    def close(self) -> None:
        """Abort the running texts and submit no others; may be called again."""
        with self._lock:
            self._closed = True
            running = list(self._running.values())
        self._cancellation.cancel()
        for _, generation in running:
            generation.abort()
        self._mailbox.wake()

    def end(self) -> None:
        """Close, record what was aborted, and stop watching the client."""
        release, self._release = self._release, None  # it refers to this object
        try:
            if release is not None:
                release()
            self.close()
            self._stop_waiting()
            for index in list(self._running):
                self._ended(index)
            self._reservation.leave()
            self._end_trace()
        finally:
            self._leave()

    def _submit(self) -> None:
        """Submit texts until the next one has to wait."""
        while self._todo and not self._closed:
            text = self._todo.popleft()
            try:
                generation = self._submit_one(text)
            except HeldBack as error:
                # When one of its own texts has ended, it is known what they leave; others' requests are asked about.
                if self._running or time.monotonic() < text.start_clock():
                    forget_frames(error)
                    self._todo.appendleft(text)
                    self._held_back = not self._running
                    return
                self._failed(text.index, error)
            except Exception as error:
                self._failed(text.index, error)
            else:
                if generation is None:
                    self._todo.appendleft(text)
                    self._waits = True
                    return
                self._run(text, generation)
        if not self._backend.info.sends_on:  # as `Run.release_body` has it
            self._release_body()
        self._stop_waiting()

    def _submit_one(self, text: _Text) -> Generation | None:
        """Submit a text; return None if there is no capacity yet. Raises the error that it is refused with."""
        if (kept := self._found(text)) is not None:
            return kept
        alone, sampling = not self._running, text.request.sampling
        self._reservation.hold({text.index: (self._backend.info.max_model_len, sampling.max_tokens)})
        self._observer.submitting(text.index, text.request)
        try:
            generation = self._backend.submit_when_free(text.request, alone, self._mailbox.wake)
        except BaseException:
            self._reservation.drop(text.index)
            raise
        if generation is not None:
            self._reservation.narrow(text.index, generation.prompt_tokens, generation.max_tokens)
            self._observer.submitted(text.index)
            return generation
        self._reservation.drop(text.index)
        if alone and time.monotonic() >= text.start_clock():
            raise Overloaded(BUSY)
        return None

    def _found(self, text: _Text) -> Generation | None:
        """Return the answer that an equal request has had, also one for this text alone, if it is kept."""
        asked = [(text.request.prompt, text.request.sampling)]
        if text.cache is not None or not self._answers.enabled:
            return None
        key = key_of(self._backend.info, text.request.client, SINGLE, asked)
        if key is None:
            return None
        kept = self._answers.find(key)
        text.cache = "miss" if kept is None else "hit"
        if kept is None:
            text.keeping = Keeping(self._answers, key, 1)
            return None
        self._observer.submitting(text.index, text.request)
        self._observer.submitted(text.index)
        return kept[0].generation(text.request.request_id)

    def _stop_waiting(self) -> None:
        if self._waits:
            self._waits = False
            self._backend.stop_waiting(self._mailbox.wake)

    def _run(self, text: _Text, generation: Generation) -> None:
        text.start_clock()
        with self._lock:
            self._running[text.index] = text, generation
            closed = self._closed
        self._mailbox.add(text.index, generation, streaming=False)
        if closed:
            generation.abort()

    def _collect(self, until: float) -> bool:
        """Wait until a text finishes, at most until then on the monotonic clock; return whether one did."""
        if self._todo and not self._running:
            until = min(until, self._todo[0].start_clock())
        if self._held_back:
            until = min(until, time.monotonic() + HELD_BACK_SECONDS)
            self._held_back = False
        event = self._mailbox.wait(max(0.0, until - time.monotonic()))
        if event is not None:
            self._ended(event[0])
        return event is not None

    def _ended(self, index: int) -> None:
        """Send the line of a finished text."""
        with self._lock:
            text, generation = self._running.pop(index)
        try:
            self._done(text, _outcome(generation), generation)
        except Exception as error:
            self._failed(index, error, generation)

    def _done(self, text: _Text, completion: Completion, generation: Generation) -> None:
        index, recorded = text.index, self._recorded(text.index)
        self._observer.answered(index, completion)
        if text.keeping is not None:
            text.keeping.ended(0, generation, completion)
        recorded.answered(0, [generation])
        self._reservation.drop(index)
        shown = self._show(replace(finished(completion, self._began), cost=recorded.cost))
        self._send(index, {**shown, **({} if text.cache is None else {"cache": text.cache})})

    def _failed(self, index: int, error: Exception, generation: Generation | None = None) -> None:
        ours = as_service_error(error)
        meaning = meaning_of(ours)
        self._observer.failed(meaning.code, meaning.status, ours.message)
        if generation is not None:
            recorded = self._recorded(index)
            recorded.failure = meaning.code
            recorded.close([generation], partial(self._reservation.drop, index))
        self._send(index, api_body(ours, "", self._sentence))

    def _recorded(self, index: int) -> RunMeter:
        """Return what records a text, as a request of its own."""
        return RunMeter(self._meter, f"{self._request_id}-{index}", [TextPrompt("")])

    def _send(self, index: int, body: Mapping[str, Any]) -> None:
        line = {"index": index, **body, "request_id": f"{self._request_id}-{index}"}
        self._lines.append(f"{sse.compact(line)}\n".encode())

    def _generation_request(self, backend: Backend, index: int, body: TextRequest) -> GenerationRequest:
        timeout = services().settings.engine.request_timeout
        return GenerationRequest(
            request_id=f"{self._request_id}-{index}",
            prompt=conversation(body.prompt),
            sampling=sampling(backend, body),
            client=request_state().account.id,
            priority=Priority.BATCH,
            queue_timeout=timeout,
            timeout=timeout,
            cancellation=self._cancellation,
        )


def _outcome(generation: Generation) -> Completion:
    """Return a finished answer, without waiting for an aborted one. Raises the error that it failed with."""
    if not generation.done:
        raise RequestAborted("The batch was stopped.")
    return generation.result()
