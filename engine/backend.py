"""The one interface between the routes and whatever generates: `Backend`, the `Generation` it returns, and `Mailbox`.

The engine and the fakes of the tests stand behind `Backend`; nothing above this file knows which one answers.

The course of a request: `submit` (any thread) admits or refuses at once, then prepares the prompt in the caller's
thread, queues it and returns a `Generation`. One producer thread calls `push`, `finish` or `fail` on it; one consumer
iterates `pieces()`, waits in `result()`, or reads several generations through one `Mailbox`; any thread may `abort()`.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from engine.errors import OUT_OF_TIME, STOPPED, DeadlineExceeded, RequestAborted, RetryLater, ServiceError
from engine.types import (
    BackendState,
    BackendStats,
    Completion,
    DetokenizeRequest,
    GenerationRequest,
    ModelInfo,
    Piece,
    QueuePosition,
    Spelled,
    Spent,
    TokenizeRequest,
    Vocabulary,
)

# Seconds after its deadline in which the engine may still end a request itself.
DEADLINE_GRACE = 1.0


class Backend(Protocol):
    """Answers for one model. All but `start` and `stop` may be called from any thread at any time."""

    @property
    def info(self) -> ModelInfo:
        """Return what clients may know of the model; lengths and defaults are final once `start` has returned."""

    def vocabulary(self) -> Vocabulary | None:
        """Return the model's tokens; None before it is loaded, and if it cannot follow grammars."""

    def start(self) -> None:
        """Load and warm up the model, blocking; `state().progress` advances meanwhile. Raises StartError."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Admit one request and return its generation.

        Raises NotReady and Overloaded before any work. Then tokenizes in the caller's thread; raises ValidationError or
        a subclass (too many tokens, an image that cannot be decoded, a parameter that is not supported), and
        RequestAborted or DeadlineExceeded soon after `request.cancellation` or its time has ended that work.
        """

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Return the ids of a prompt as `submit` would compute them, an image's pad token once for each of its tokens.

        Works in the caller's thread; no image is decoded, and the engine's thread is not involved. Raises NotReady;
        Overloaded while too many prompts are tokenized; and what `submit` raises for a prompt, its size and its time.
        """

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        """Return the text of token ids, in which control tokens are shown by their names.

        The ids of a text prompt give that text, as far as the tokenizer keeps it (it may normalize Unicode). Works as
        `tokenize` does, and raises as it does; ValidationError for ids that the model does not have.
        """

    def would_refuse(self, client: str) -> RetryLater | None:
        """Return what `submit` would refuse a client's request with at this moment, None if it would admit it.

        Costs microseconds and never blocks on the engine's work.
        """

    def most_at_once(self) -> int | None:
        """Return how many requests of one client `submit` admits at most before one has ended, if nobody else has any.

        None where that is not known yet. What needs more at once is refused by `submit` at any time.
        """

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Callable[[], None]) -> Generation | None:
        """Admit one request of a batch if a slot is free; return None if the batch has to wait.

        alone: the batch has no other request in flight, so this one may also wait in the queue. After None, `wake` is
        called once, from any thread, when it is worth trying again; it must not block. Raises as `submit` does, except
        Overloaded.
        """

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        """Forget a batch that submits nothing more, and let another one have its turn."""

    def state(self) -> BackendState:
        """Return whether requests are accepted, and if not, why; never blocks."""

    def stats(self) -> BackendStats:
        """Return the current metrics; never blocks."""

    def drain(self) -> None:
        """Refuse new requests from now on and let the admitted ones finish; returns at once."""

    def stop(self, timeout: float) -> None:
        """Drain, wait up to `timeout` seconds for the admitted requests, abort what is left, and end the thread."""


# Every model of the service, by name.
Models = Iterable[tuple[str, Backend]]

# Called with a part of an answer, or None at its end.
Listener = Callable[[Piece | None], None]


class Generation:
    """One answer being generated, passed from the engine's thread to the thread that serves the client.

    deadline: on the monotonic clock, in seconds; past it the consumer gives up by itself, so that no request hangs on a
    stalled engine. on_abort: asks the engine to stop the sequence; it is called with this object's lock held, so it
    must not block. queue_position: where the request waits, None once it has started. max_tokens: the bound of its
    length. prompt_token_ids: () unless the request wants them.
    """

    writes_itself = False  # a stream's `wake` must not write: it is called with this object's lock held

    def __init__(
        self,
        request_id: str,
        prompt_tokens: int,
        deadline: float,
        on_abort: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        queue_position: Callable[[], QueuePosition | None] = lambda: None,
        max_tokens: int = 0,
        prompt_token_ids: tuple[int, ...] = (),
    ) -> None:
        self.request_id, self.prompt_token_ids = request_id, prompt_token_ids
        self.prompt_tokens, self.max_tokens = prompt_tokens, max_tokens
        self.queue_position = queue_position
        self._deadline = deadline
        self._on_abort = on_abort
        self._clock = clock
        self._lock = threading.RLock()  # guards the fields below
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # consumers
        self._listener: Listener | None = None
        self._wake: Callable[[], None] | None = None
        self._pieces: deque[Piece] = deque()
        self._streaming = False
        self._completion: Completion | None = None
        self._error: ServiceError | None = None
        self._spent: Spent | None = None
        self._pushed = 0  # tokens
        self._aborted = False

    # Called by the producer, which is one thread.

    def push(self, piece: Piece) -> None:
        """Hand over a part of the answer; wakes the consumer only if it streams."""
        with self._lock:
            self._pushed += len(piece.token_ids)
            if self._listener is None:
                self._pieces.append(piece)
                if self._wake is not None:
                    self._wake()
                elif self._waiting and self._streaming:
                    self._changed.notify_all()
            elif self._streaming:
                self._listener(piece)

    def finish(self, completion: Completion) -> None:
        """End the answer. The first end counts; later ones are ignored."""
        with self._lock:
            if not self.done:
                self._completion = completion
                self._notify_end()
            self._let_go()

    def fail(self, error: ServiceError, spent: Spent | None = None) -> None:
        """End the answer with a typed error. The first end counts; later ones are ignored. spent: what it took."""
        with self._lock:
            if not self.done:
                self._error, self._spent = copy.copy(error), spent  # without the frames, which have this object
                self._notify_end()
            self._let_go()

    def _let_go(self) -> None:
        """Refer to nobody any longer who may refer to this object: it would be garbage for a full collection only."""
        self._on_abort = _nothing
        if self._listener is not None:
            self._listener = _unheard

    # Called by the consumer.

    @property
    def done(self) -> bool:
        """True once the answer has ended or failed."""
        return self._completion is not None or self._error is not None

    @property
    def spent(self) -> Spent:
        """What the answer took, final once it is done; where the engine has not said, by what it has handed over."""
        with self._lock:
            if self._completion is not None:
                return Spent.on(self._completion)
            if self._spent is not None:
                return self._spent
            return Spent(self.prompt_tokens if self._pushed else 0, self._pushed)

    @property
    def reading(self) -> bool:
        """True while a consumer reads the parts as they come; else the engine may join them.

        Else the thousands of parts of clients that do not read would be visited by each full collection of garbage.
        """
        return self._streaming and not self._pieces

    @property
    def ready(self) -> bool:
        """True if there is a part that was not read, or the end."""
        return bool(self._pieces) or self.done

    @property
    def unread(self) -> bool:
        """True if there is a part that was not read."""
        return bool(self._pieces)

    @property
    def aborted(self) -> bool:
        """True once an abort was requested."""
        return self._aborted

    def pieces(self, idle: float | None = None) -> Iterator[Piece]:
        """Yield the parts as they come, until the end. Raises the error that the answer ended with.

        idle: seconds without a part after which an empty one is yielded, for a stream's keep-alive. A consumer that
        stops iterating before the end aborts the request.
        """
        with self._lock:
            self._streaming = True
        try:
            while (piece := self._next_piece(idle)) is not None:
                yield piece
        finally:
            if not self.done:
                self.abort()

    @property
    def certain(self) -> bool:
        """False while it may still turn out that there is no answer, of which a client is told by a status."""
        return True

    def wait_for_begin(self) -> None:
        """Wait where it is not certain yet that there will be an answer; an engine of ours promises one at admission.

        Raises the error that the answer has ended with meanwhile.
        """

    def result(self) -> Completion:
        """Wait for the end and return the whole answer. Raises the error that it ended with."""
        with self._lock:
            while not self.done:
                self._wait()
            return self._outcome()

    def abort(self) -> None:
        """Stop generating; takes effect within two steps, and has none once done. Any thread."""
        with self._lock:
            if self._aborted or self.done:
                return
            self._aborted = True
        self._on_abort()

    def listen(self, listener: Listener, streaming: bool) -> None:
        """Have `listener` called with each part if `streaming`, and with None at the end, instead of waking a consumer.

        Called with this object's lock held, so it must not block; at once for what has arrived already.
        """
        with self._lock:
            self._listener, self._streaming = listener, streaming
            pieces, self._pieces = self._pieces, deque()
            for piece in pieces if streaming else ():
                listener(piece)
            if self.done:
                listener(None)
                self._listener = _unheard

    def tell(self, wake: Callable[[], None]) -> None:
        """Have `wake` called with each part and at the end, instead of waking a consumer.

        `pieces` does not wait any longer, and yields an empty part where there is none. `wake` is called with this
        object's lock held, so it must not block.
        """
        with self._lock:
            self._wake, self._streaming = wake, True

    def expire(self) -> float:
        """End the answer if its deadline has passed; return the seconds left until then."""
        with self._lock:
            remaining = self._deadline + DEADLINE_GRACE - self._clock()
            if remaining <= 0 and not self.done:
                self._expire()
                self._notify_end()
            return remaining

    def _next_piece(self, idle: float | None) -> Piece | None:
        """Return the next part, an empty one after `idle` seconds without any, None at the end."""
        with self._lock:
            while not self._pieces and not self.done:
                if self._wake is not None or not self._wait(idle):
                    return Piece("")
            if self._pieces:
                return self._pieces.popleft()
            self._outcome()
            return None

    def _wait(self, idle: float | None = None) -> bool:
        """Wait for a change; return False after `idle` seconds without one. Past the deadline the answer ends."""
        remaining = self._deadline + DEADLINE_GRACE - self._clock()
        if remaining > 0:
            self._waiting += 1
            try:
                return self._changed.wait(remaining if idle is None else min(idle, remaining)) or idle is None
            finally:
                self._waiting -= 1
        self._expire()
        return True

    def _notify_end(self) -> None:
        if self._listener is not None:
            self._listener(None)
        else:
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()

    def _expire(self) -> None:
        self._error = DeadlineExceeded(OUT_OF_TIME)
        self._aborted = True
        self._on_abort()

    def _outcome(self) -> Completion:
        if self._error is not None:
            # A copy: a raised error refers to the frames that it passes, and so to this object, which would be garbage
            # that only a full collection finds, with all that it refers to.
            raise copy.copy(self._error)
        assert self._completion is not None
        if self._completion.finish_reason == "abort":
            raise RequestAborted(STOPPED)
        return self._completion


def _nothing() -> None:
    """Stop nothing: the answer has ended."""


LOOK_SECONDS = 0.1


def _unheard(piece: Piece | None) -> None:
    """Hear nothing: the answer has ended."""


class Mailbox:
    """Several generations of one request, read by one thread: their parts and ends in the order in which they come.

    `add` and `wait` belong to that thread; `wake` may be called from any, with any lock held.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[int, Piece | None] | None] = queue.SimpleQueue()
        self._open: dict[int, Generation] = {}
        self._look_at = 0.0  # when deadlines are looked at again though parts keep coming

    def __len__(self) -> int:
        """How many generations have not been read to their end."""
        return len(self._open)

    def add(self, number: int, generation: Generation, streaming: bool) -> None:
        """Read one more generation. streaming: read its parts too, not only its end."""
        self._open[number] = generation
        generation.listen(lambda piece: self._events.put((number, piece)), streaming)

    def wake(self) -> None:
        """Make `wait` return."""
        self._events.put(None)

    def wait(self, timeout: float) -> tuple[int, Piece | None] | None:
        """Return the next part of a generation, with its number, or None as its part once it has ended.

        None when woken, or after `timeout` seconds. A generation whose deadline has passed is ended here.
        """
        until = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            left, nearest = until - now, 0.0
            if now >= self._look_at or self._events.empty():  # hundreds of deadlines are not looked at with each part
                self._look_at = now + LOOK_SECONDS
                nearest = min((generation.expire() for generation in self._open.values()), default=left)
            try:
                event = self._events.get(timeout=max(0.0, min(left, nearest)))
            except queue.Empty:
                if left <= 0:
                    return None
                continue
            if event is not None and event[1] is None:
                del self._open[event[0]]
            return event
