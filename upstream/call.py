"""One request to an upstream: its attempts, their time-outs, and what the client is given meanwhile.

An attempt is repeated only while nothing of an answer was handed to the client; a client that does not stream is handed
nothing before the end, so that half an answer is no loss to it. All of this runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import aiohttp

from config import Upstream
from engine.backend import Generation
from engine.errors import (
    EngineDead,
    Overloaded,
    RequestAborted,
    RetryLater,
    ServiceError,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationError,
)
from engine.types import GenerationRequest, Piece, Spent, Timings
from upstream.answer import AnswerReader
from upstream.checking import AnswerCheck
from upstream.event_stream import EventReader, EventTooLong
from upstream.failures import SILENT, AttemptFailed, away, of_exception, of_status, retry_after_of
from upstream.fleet import Fleet
from upstream.generation import UpstreamGeneration
from upstream.loop import UpstreamLoop
from upstream.replica import Replica

LARGE_BODY = 1024 * 1024  # bytes, from which a body is sent in parts
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts at one server; each is drawn up to its bound
PATIENCE = 10.0  # seconds of a server's Retry-After that are waited for
ERROR_BYTES = 64 * 1024  # of a refusal that are read
END_PATIENCE = 0.5  # seconds that a server has, behind a whole answer, to end its response
EVENTS = "text/event-stream"

StandIn = Callable[[GenerationRequest], Generation]


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent. path: below the base URL; headers: of this request."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    tls: ssl.SSLContext | bool


class Call:
    """One request, from its admission to its end. on_end: called once, with how the answer ended."""

    def __init__(
        self,
        upstream: Upstream,
        fleet: Fleet,
        loop: UpstreamLoop,
        request: GenerationRequest,
        letter: Letter,
        prefix: bytes,
        estimate: int,
        max_tokens: int,
        check: AnswerCheck,
        stand_in: StandIn | None,
        on_end: Callable[[Call], None],
        arrival: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream, self._fleet, self._loop, self._letter = upstream, fleet, loop, letter
        self._request, self._prefix, self._check, self._on_end = request, prefix, check, on_end
        self._estimate, self._max_tokens = estimate, max_tokens
        self._arrival, self._clock = arrival, clock
        timeout = min(upstream.timeout or request.timeout, request.timeout)
        self._until = arrival + timeout
        self.generation: UpstreamGeneration
        self._stand_in = stand_in
        self._inner: Generation | None = None  # of what stands in
        self._handing_on = False  # it is being asked, and its answer must not be lost sight of
        self.reader = self._new_reader()
        self._began = arrival  # the attempt that answers
        self._first_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = self._over = False
        self._blamed: set[Replica] = set()  # those that have failed for this request
        self.retries = 0

    # --- called through the loop ---

    def start(self) -> None:
        """Begin, in the loop's thread."""
        self._task = self._loop.spawn(self._run())
        self._task.add_done_callback(self._never_begun)
        if self._cancelled:
            self._task.cancel()

    def cancel(self) -> None:
        """Stop: the connection is closed, by which the server knows."""
        self._cancelled = True
        if self._inner is not None:
            self._inner.abort()
        elif self._task is not None and not self._handing_on:
            self._task.cancel()

    # --- the task ---

    def _never_begun(self, task: asyncio.Task[None]) -> None:
        """End a request whose task was cancelled before its first step."""
        if task.cancelled() and not self._over:
            self._end_with(RequestAborted("The request was stopped."))

    async def _run(self) -> None:
        try:
            await self._attempts()
        except asyncio.CancelledError:
            if not self._over:
                self._end_with(RequestAborted("The request was stopped."))
        except ServiceError as error:
            if not await self._handed_on(error):
                self._end_with(error)
        except Exception as error:  # a bug of ours: the client gets a typed error, the log the traceback
            self._end_with(EngineDead("The request failed."))
            raise error

    async def _attempts(self) -> None:
        tried: list[Replica] = []
        error: ServiceError | None = None
        while True:
            replica = self._fleet.choose(self._prefix, tried)
            if replica is None and tried:
                tried.clear()
                replica = self._fleet.choose(self._prefix, tried)
            if replica is None:
                raise error or away(self._fleet.left_open())
            try:
                await self._attempt(replica)
                return
            except AttemptFailed as failure:
                self._check_repeatable(failure)
                error = failure.error
                tried.append(replica)
                self.retries += 1
                self._restart()  # before the pause, in which a client may begin to listen
                others = any(one.usable and one not in tried for one in self._fleet.replicas)
                await asyncio.sleep(0 if others else self._delay(failure))

    async def _handed_on(self, error: ServiceError) -> bool:
        """Ask what stands in, where nothing was handed to the client; return whether it has taken the request."""
        ours = isinstance(error, RetryLater | UpstreamFailed | UpstreamTimedOut)
        left = self._arrival + self._request.timeout - self._clock()
        if self._stand_in is None or not ours or left <= 0 or not self.generation.take_back():
            return False
        self._restart()
        self._handing_on = True
        try:
            inner = await asyncio.to_thread(self._stand_in, replace(self._request, timeout=left))
        except ServiceError:
            return False
        self._inner = inner
        if self._cancelled:
            inner.abort()
        inner.listen(lambda piece: self._loop.soon(self._from_inner, inner, piece), streaming=True)
        return True

    def _from_inner(self, inner: Generation, piece: Piece | None) -> None:
        if piece is not None:
            self.generation.begin()
            self.generation.push(piece)
            self.generation.flush()
            return
        self._on_end(self)
        try:
            self.generation.finish(inner.result())
        except ServiceError as error:
            self.generation.fail(error, inner.spent)

    def _check_repeatable(self, failure: AttemptFailed) -> None:
        """Raise the error of a failure behind which no attempt follows; take back what came in this one."""
        if not failure.repeats or self.retries >= self._upstream.retries:
            raise failure.error
        if self._clock() >= self._until:
            raise UpstreamTimedOut(SILENT)
        if not self.generation.take_back():
            raise failure.error

    def _delay(self, failure: AttemptFailed) -> float:
        """Return the seconds before the next attempt at the same server. Raises the error where that is too long."""
        jitter = random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**self.retries))  # nosec B311 # no secret
        if failure.retry_after is None:
            return jitter
        if failure.retry_after > PATIENCE or self._clock() + failure.retry_after >= self._until:
            raise failure.error
        return failure.retry_after + jitter

    def _restart(self) -> None:
        self._first_at = None
        self.reader = self._new_reader()

    def _new_reader(self) -> AnswerReader:
        return AnswerReader(self._request, self._estimate, self._max_tokens)

    async def _attempt(self, replica: Replica) -> None:
        """Ask one server. Raises AttemptFailed, and ServiceError for what no other attempt mends."""
        trial = replica.enter()
        self._began = self._clock()
        watch = _Watch(self._upstream, self._until, self._clock)
        try:
            with watch:
                await self._exchange(replica, watch)
        except asyncio.CancelledError:
            if self._cancelled or not watch.expired:
                raise
            raise self._noted(replica, AttemptFailed("timeout", UpstreamTimedOut(SILENT))) from None
        except Exception as error:
            raise self._noted(replica, of_exception(error)) from None
        finally:
            replica.leave(trial)

    def _noted(self, replica: Replica, failure: AttemptFailed) -> AttemptFailed:
        if failure.counts or failure.repeats:
            replica.failed(failure, None if replica in self._blamed else self._request.client)
            self._blamed.add(replica)
        else:
            replica.succeeded()  # it has answered, by refusing what the client sent
        return failure

    async def _exchange(self, replica: Replica, watch: _Watch) -> None:
        letter = self._letter
        data = letter.body if len(letter.body) < LARGE_BODY else io.BytesIO(letter.body)
        async with self._loop.session.post(
            replica.url + letter.path,
            data=data,
            headers=letter.headers,
            allow_redirects=False,
            ssl=letter.tls,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._upstream.connect_timeout),
        ) as response:
            if response.status != 200:
                body = await response.content.read(ERROR_BYTES)
                after = retry_after_of(response.headers.get("Retry-After"))
                raise of_status(response.status, after, body, self._upstream.max_model_len)
            if response.content_type != EVENTS:
                raise AttemptFailed("nonsense", of_exception(EventTooLong()).error)
            await self._read(response, replica, watch)
            watch.stop()
            replica.succeeded()
            self._finish()
            await self._read_end(response)

    async def _read(self, response: aiohttp.ClientResponse, replica: Replica, watch: _Watch) -> None:
        events, reader = EventReader(), self.reader
        async for chunk in response.content.iter_any():
            for data in events.feed(chunk):
                watch.heard()
                if (piece := reader.read(data)) is not None:
                    self._came(piece, replica)
            if reader.done:
                break
            self.generation.flush()
        for data in events.rest() if not reader.done else ():
            if (piece := reader.read(data)) is not None:
                self._came(piece, replica)
        if (last := reader.end()) is not None:
            self._came(last, replica)
        try:
            await self._check.check(reader.text, reader.calls, reader.finish_reason == "length")
        except (UpstreamFailed, ValidationError) as error:
            repeats = isinstance(error, UpstreamFailed)
            raise AttemptFailed("broken_form", error, counts=False, repeats=repeats) from None

    async def _read_end(self, response: aiohttp.ClientResponse) -> None:
        """Read what follows the answer, which is its end, so that the connection serves another request."""
        with contextlib.suppress(Exception):  # the answer is whole
            async with asyncio.timeout(END_PATIENCE):
                while await response.content.readany():
                    pass

    def _came(self, piece: Piece, replica: Replica) -> None:
        if self._first_at is None:
            self._first_at = self._clock()
            self.generation.begin()
            if replica.state != "closed":
                replica.succeeded()
        self.generation.push(piece)

    # --- the end ---

    def _finish(self) -> None:
        now = self._clock()
        first = None if self._first_at is None else self._first_at - self._arrival
        timings = Timings(self._began - self._arrival, first, now - self._arrival)
        self._over = True
        self._on_end(self)
        self.generation.finish(self.reader.completion(timings))

    def _end_with(self, error: ServiceError) -> None:
        self._over = True
        self.generation.take_back()
        reader, refused = self.reader, isinstance(error, Overloaded)
        spent = (
            Spent()
            if refused or self._first_at is None
            else Spent(reader.prompt_tokens, reader.output_tokens, reader.cached_tokens, self._clock() - self._began)
        )
        self._on_end(self)
        self.generation.fail(error, spent)


class _Watch:
    """The time-outs of one attempt: until the first event, between two, and in all. Cancels the task that enters it.

    `heard` costs an assignment: the timer looks what it finds when it is due.
    """

    def __init__(self, upstream: Upstream, until: float, clock: Callable[[], float]) -> None:
        self._idle, self._until, self._clock = upstream.idle_timeout, until, clock
        self._due = min(clock() + upstream.first_token_timeout, until)
        self._last: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.expired = False

    def heard(self) -> None:
        """Note an event."""
        self._last = self._clock()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._arm()

    def stop(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.expired and self._task is not None:
            self._task.uncancel()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        now = self._clock()
        # The first event may come at any time, from which on the shorter limit holds.
        self._timer = loop.call_later(max(0.0, min(self._due, now + self._idle) - now), self._look)

    def _look(self) -> None:
        now = self._clock()
        due = self._due if self._last is None else min(self._last + self._idle, self._until)
        if now < due:
            self._due = due
            self._arm()
            return
        self.expired = True
        if self._task is not None:
            self._task.cancel()
