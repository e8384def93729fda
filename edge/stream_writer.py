"""Writes the parts of all streams in one thread, as they come, while the threads of their requests sleep.

A step of the engine brings a part of every stream. Were each written by its request's own thread, all of these would
wake at once and wait in turn for the interpreter lock, before the engine and before the poller. Here one thread wakes,
builds what there is of each stream and sends it in one write, without ever waiting for a client. A stream's own thread
does what takes longer: it begins and ends the stream, keeps it alive while nothing comes, and waits for a client that
does not read. Clients that do not read are full after the same number of bytes, and so after the same step: their
streams are given back to their threads one after the other.

Where the parts come from a thread that itself only waits for sockets, as those of servers elsewhere do, that one writes
them as they come: between it and the client there is no other thread to be woken.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from edge import turns

log = logging.getLogger("avito_ai.serving")

GIVE_BACK_EVERY = 0.005  # seconds between two streams of clients that do not read


class Source(Protocol):
    """What a stream is made from; `engine.backend.Generation`."""

    @property
    def ready(self) -> bool:
        """True if there is a part that was not read, or the end."""

    @property
    def unread(self) -> bool:
        """True if there is a part that was not read."""

    @property
    def done(self) -> bool:
        """True once nothing more will come."""

    @property
    def writes_itself(self) -> bool:
        """True where `wake` is called with no lock held, by a thread that may write the parts there."""

    def tell(self, wake: Callable[[], None]) -> None:
        """Call `wake` with each part and at the end; reading does not wait any longer."""

    def expire(self) -> float:
        """End what has passed its deadline; return the seconds left until then."""


class Sink(Protocol):
    """Where a stream is written to; `serving.connection.ClientSocket`."""

    def send_part(self, data: bytes) -> bool:
        """Send a part of the body without waiting; False if some of it is left, for `send_rest`."""

    def send_rest(self) -> None:
        """Send what is left, waiting for the client. Raises OSError."""


class _Stream:
    """One stream, which its own thread lends to the shared one."""

    def __init__(self, events: Iterator[bytes], source: Source, sink: Sink, queued: Callable[[_Stream], None]) -> None:
        self.source, self.sink = source, sink
        self._events, self._queue = events, queued
        self._queued = False
        self._lock = threading.Lock()  # held while a thread has it that writes it; guards the fields below
        self._lent = False
        self._returned = threading.Lock()  # released when the shared thread gives the stream back
        self._returned.acquire()
        self._left = False  # whether its client has not taken all of the last part
        self._kept = False  # by the shared thread, to be given back
        self._error: BaseException | None = None

    def told(self) -> None:
        """Hear of a part, or of the end."""
        if self.source.writes_itself:
            self._advance_here()
        else:
            self.wake()

    def wake(self) -> None:
        """Have the shared thread look; never blocks."""
        if not self._queued:
            self._queued = True
            self._queue(self)

    def lend(self, seconds: float) -> bool:
        """Sleep while the shared thread writes, at most some seconds; False where the own thread is to go on.

        Raises the error of building or sending the events.
        """
        with self._lock:
            self._lent = True
        if self.source.ready:
            self.told()
        returned = self._returned.acquire(timeout=max(0.0, seconds))
        if not returned:
            with self._lock:
                if not self._lent:  # given back at this very moment
                    self._returned.acquire()
                self._lent = False
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # it knows this frame, and so this object
        left, self._left = self._left, False
        if left:
            self.sink.send_rest()
        return left

    def advance(self) -> bool:
        """Write what has come, in the shared thread; at the end, or where that fails, give the stream back.

        Return whether it is still to be given back, for its client does not read.
        """
        with self._lock:
            self._queued = False
            self._go_on()
            keep = self._left and self._lent and not self._kept
            self._kept = self._kept or keep
        self._look_again()
        return keep

    def give_back(self) -> None:
        """Let its own thread wait for its client, unless that has gone on by itself."""
        with self._lock:
            self._kept = False
            if self._left and self._lent:
                self._end_loan()
        self._look_again()

    def _look_again(self) -> None:
        """Write what another thread could not meanwhile: that one has not waited."""
        if self.source.writes_itself:
            self._advance_here()

    def _advance_here(self) -> None:
        """Write what has come, in the calling thread, unless another is at it, which then looks again."""
        while self.source.ready and self._lent and not self._left and self._lock.acquire(blocking=False):
            try:
                self._go_on()
            finally:
                self._lock.release()
            if self._left:
                self.wake()  # for the shared thread to give it back

    def _go_on(self) -> None:
        if not self._lent or self._left:
            return
        try:
            goes_on = self._write()
        except BaseException as error:
            self._error, goes_on = error, False
        if not goes_on and not self._left:
            self._end_loan()

    def _end_loan(self) -> None:
        self._lent = False
        self._returned.release()

    def _write(self) -> bool:
        """Write the parts that are there, in one write; return whether the shared thread can go on."""
        parts, ended = [], False
        while self.source.ready and not self.source.done and not ended:
            part = next(self._events, None)
            ended = part is None
            parts.append(part or b"")
        data = b"".join(parts)
        if data:
            self._left = not self.sink.send_part(data)
        return not (ended or self.source.done)


def _nothing() -> None:
    """Wake nobody: the stream has ended."""


class StreamWriter:
    """The shared thread, from `start` or else from the first stream on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._thread: threading.Thread | None = None
        self._ready: queue.SimpleQueue[_Stream] = queue.SimpleQueue()
        self._full: deque[_Stream] = deque()  # to be given back; this one and the next are the shared thread's
        self._give_back_at = 0.0

    def start(self) -> None:
        """Start the thread, once the process is forked: later there might be no room for another."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stream-writer", daemon=True)
                self._thread.start()

    def written(self, events: Iterator[bytes], source: Source, sink: Sink, idle: float) -> Iterator[bytes]:
        """Yield what the calling thread is to write itself; the other events are written while it waits in here.

        events: yields at least one item, which may be empty, for each part of the source. idle: seconds without a part
        after which the next event is asked for all the same.
        """
        self.start()
        stream = _Stream(events, source, sink, self._ready.put)
        source.tell(stream.told)
        try:
            for event in events:
                parts = [event]
                while source.unread and (part := next(events, None)) is not None:
                    parts.append(part)
                yield b"".join(parts)  # the first ones leave with the head
                while not source.done:
                    turns.leave()
                    if not stream.lend(min(idle, source.expire())):
                        break
                if source.done:
                    turns.take(turns.LAST_PART)
                    yield b"".join(events)
        finally:
            source.tell(_nothing)  # else the two would refer to each other

    def _run(self) -> None:
        while True:
            try:
                self._give_back_one()
                wait = max(0.0, self._give_back_at - time.monotonic()) if self._full else None
                with suppress(queue.Empty):
                    stream = self._ready.get(timeout=wait)
                    if stream.advance():
                        self._full.append(stream)
                    del stream  # so that it is not kept while this thread waits
            except Exception:
                log.exception("The parts of a stream could not be written.")

    def _give_back_one(self) -> None:
        now = time.monotonic()
        if self._full and now >= self._give_back_at:
            self._give_back_at = now + GIVE_BACK_EVERY
            self._full.popleft().give_back()
