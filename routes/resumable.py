"""Streams of the page that outlive their connection: for a minute, their client reads them again from their beginning.

A reload closes the connection of a stream. Its answer goes on meanwhile; one thread looks after all answers without a
reader, keeps what comes of them, and ends them when the minute is over. What is kept is bounded: beyond the bounds a
stream ends with its connection, like any other.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from edge.stream_writer import Source
from engine.errors import Message, Overloaded

log = logging.getLogger("avito_ai.serving")

KEPT_SECONDS = 60.0  # without a reader
LOOK_SECONDS = 0.5  # between two looks at the streams without a reader
HANDOVER_SECONDS = 3.0  # in which a reader whose client has left stops
MAX_STREAMS, MAX_OF_CLIENT = 512, 16
MAX_WAITING = 32  # requests that wait for a reader to leave; each keeps a thread
MAX_BYTES = 16 * 1024 * 1024  # of the events of all streams
MEMORY_BYTES = 2 * MAX_BYTES  # with a copy for those who read again, and the objects of each stream
BUSY = Message("stream_busy", "This stream is still being read; try again in a moment.")

Reader = object


class Answer(Protocol):
    """What a stream is of; `routes.generation_run.Run`."""

    @property
    def only(self) -> Source | None:
        """The one answer, None if there are several."""

    def abort(self) -> None:
        """Stop generating; from any thread."""

    def close(self) -> None:
        """Give back what it holds, and stop generating; may be called twice."""


class Stream:
    """One stream. Its events are made by whoever holds it: a reader, or the thread that looks after it."""

    def __init__(self, owner: str, events: Iterator[bytes], answer: Answer, source: Source) -> None:
        self.id, self.owner = secrets.token_urlsafe(24), owner
        self.events, self.answer, self.source = events, answer, source
        self.kept = bytearray()  # the events so far, without keep-alives
        self.holder: Reader | None = None
        self.next_reader: Reader | None = None  # the last who asked for it, and waits
        self.left_at: float | None = None  # when its reader left, on the clock
        self.begun = False  # its client was there as an event was sent, with which the id comes
        self.ended = self.dropped = self.closed = False

    def close(self) -> None:
        """End its answer, once; for whoever holds it, or for the last who did."""
        if not self.closed:
            self.closed = True
            self.answer.close()


class ResumableStreams:
    """The streams of one process. Safe to use from any thread.

    clock: seconds. A test calls `look` itself, without `begin`.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._changed = threading.Condition()  # guards the fields below, and those of all streams but their events
        self._streams: dict[str, Stream] = {}  # oldest first
        self._bytes = self._waiting = 0
        self._looking = False

    def begin(self) -> None:
        """Start the thread that looks after streams, once the process is forked."""
        with self._changed:
            if self._looking:
                return
            self._looking = True
        threading.Thread(target=self._look_on, name="resumable-streams", daemon=True).start()

    def size(self) -> tuple[int, int]:
        """Return how many streams are kept, and the bytes of their events."""
        with self._changed:
            return len(self._streams), self._bytes

    def open(self, owner: str, events: Iterator[bytes], answer: Answer) -> tuple[Stream, Reader] | None:
        """Keep a stream for its reader, who must leave it; None where there is no room. owner: its client."""
        if answer.only is None:
            return None
        stream, reader = Stream(owner, events, answer, answer.only), Reader()
        stream.holder = reader
        with self._changed:
            mine = [one for one in self._streams.values() if one.owner == owner]
            if len(mine) >= MAX_OF_CLIENT or len(self._streams) >= MAX_STREAMS:
                ended = next((one for one in mine if one.ended and one.holder is None), None)
                if ended is None:
                    return None
                self._drop(ended)
            self._streams[stream.id] = stream
            self._changed.notify_all()
        return stream, reader

    def take(self, owner: str, stream_id: str) -> tuple[Stream, Reader] | None:
        """Take a stream, to read it again and to leave it; None for an id that this client has not.

        Raises Overloaded where somebody still reads it, as the same page in another tab does, or has asked later.
        """
        reader = Reader()
        with self._changed:
            stream = self._of(owner, stream_id)
            if stream is None:
                return None
            if stream.holder is not None and not self._waited_for(stream, reader):
                raise Overloaded(BUSY, 1)
            if stream.dropped:
                return None
            stream.holder, stream.left_at = reader, None
        return stream, reader

    def read(self, stream: Stream, reader: Reader) -> Iterator[bytes]:
        """Yield the events so far, then those that come, until the end or until the client has left."""
        if stream.kept:
            yield bytes(stream.kept)
        while stream.holder is reader and stream.left_at is None:
            event = self._next(stream)
            if event is None:
                return
            stream.begun = stream.begun or stream.left_at is None
            yield event

    def interrupt(self, stream: Stream, reader: Reader) -> None:
        """Note that the client of a reader has left; its minute begins. Never blocks for long."""
        with self._changed:
            if stream.holder is reader and stream.left_at is None:
                stream.left_at = self._clock()

    def leave(self, stream: Stream, reader: Reader) -> None:
        """Let a stream go; it ends now if nobody can read it again."""
        with self._changed:
            if stream.holder is not reader:
                return
            stream.holder = None
            stream.left_at = self._clock() if stream.left_at is None else stream.left_at
            if not stream.begun:
                self._drop(stream)
            over = stream.dropped or stream.ended
            self._changed.notify_all()
        if over:
            stream.close()

    def stop(self, owner: str, stream_id: str) -> bool:
        """End a stream and its answer; False for an id that this client has not."""
        with self._changed:
            stream = self._of(owner, stream_id)
            if stream is None:
                return False
            self._drop(stream)
            held = stream.holder is not None
        if held:  # who holds it closes it
            stream.answer.abort()
        else:
            stream.close()
        return True

    def look(self) -> None:
        """Go on with the answers without a reader, and end those whose minute is over."""
        for stream in self._held_for_look():
            try:
                self._look_at(stream)
            except Exception:
                log.exception("A stream without a reader could not be looked after.")

    def end(self) -> None:
        """End all streams without a reader, so that what they used is recorded; before the process ends."""
        for stream in self._held_for_look():
            with self._changed:
                self._drop(stream)
            stream.close()

    def _look_at(self, stream: Stream) -> None:
        try:
            while stream.source.ready and not stream.ended and not stream.dropped:
                self._next(stream)
            stream.source.expire()
        finally:
            with self._changed:
                stream.holder = None
                if stream.left_at is not None and self._clock() >= stream.left_at + KEPT_SECONDS:
                    self._drop(stream)
                over = stream.dropped or stream.ended
                self._changed.notify_all()
            if over:
                stream.close()

    def _held_for_look(self) -> list[Stream]:
        """Return the streams without a reader, held by the caller."""
        with self._changed:
            free = [one for one in self._streams.values() if one.holder is None]
            for stream in free:
                stream.holder = self
        return free

    def _look_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._streams)
            time.sleep(LOOK_SECONDS)
            self.look()

    def _next(self, stream: Stream) -> bytes | None:
        """Return the next event, None at the end; the caller holds the stream."""
        event = next(stream.events, None)
        with self._changed:
            if event is None:
                stream.ended = True
            elif not stream.dropped and not event.startswith(b":"):
                stream.kept += event
                self._bytes += len(event)
                self._make_room(stream)
        return event

    # Each of the following is called with the lock held.

    def _waited_for(self, stream: Stream, reader: Reader) -> bool:
        """Wait until a stream is let go, unless another reader asks for it; one alone keeps a thread for it."""
        stream.next_reader = reader
        self._changed.notify_all()
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            self._changed.wait_for(
                lambda: stream.holder is None or stream.dropped or stream.next_reader is not reader, HANDOVER_SECONDS
            )
        finally:
            self._waiting -= 1
        return stream.dropped or (stream.holder is None and stream.next_reader is reader)

    def _of(self, owner: str, stream_id: str) -> Stream | None:
        stream = self._streams.get(stream_id)
        return stream if stream is not None and stream.owner == owner else None

    def _make_room(self, growing: Stream) -> None:
        """Drop what has ended, the oldest first, and then the stream that grows."""
        while self._bytes > self._max_bytes:
            free = (one for one in self._streams.values() if one.ended and one.holder is None)
            self._drop(next(free, growing))

    def _drop(self, stream: Stream) -> None:
        """Keep a stream no longer; whoever holds it closes its answer."""
        if not stream.dropped:
            stream.dropped = True
            self._streams.pop(stream.id, None)
            self._bytes -= len(stream.kept)
            stream.kept = bytearray()
            self._changed.notify_all()
