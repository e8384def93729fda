"""One request to an upstream: its attempts, their time-outs, and what the client is given meanwhile.

An attempt is repeated only while nothing of an answer was handed to the client; a client that does not stream is handed
nothing before the end, so that half an answer is no loss to it. All of this runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import aiohttp

from config import Upstream
from engine.backend import Generation
from engine.errors import (
    OUT_OF_TIME,
    EngineDead,
    Overloaded,
    RequestAborted,
    RetryLater,
    ServiceError,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationError,
    forget_frames,
)
from engine.types import GenerationRequest, Piece, Spent, TextPrompt, Timings
from upstream.amendment import MOST
from upstream.answer import AnswerReader
from upstream.calls import NONSENSE
from upstream.checking import AnswerCheck
from upstream.event_stream import EventReader, EventTooLong
from upstream.failures import LIMITS, SILENT, AttemptFailed, away, of_exception, of_status, retry_after_of
from upstream.fleet import Fleet
from upstream.generation import UpstreamGeneration
from upstream.large_body import LargeBody
from upstream.loop import UpstreamLoop
from upstream.replica import CLOSED, Replica
from upstream.watch import Watch

log = logging.getLogger("avito_ai.upstream")

FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts at one server; each is drawn up to its bound
PATIENCE = 10.0  # seconds of a server's Retry-After that are waited for
ERROR_BYTES = 64 * 1024  # of a refusal that are read
ERROR_PATIENCE = 1.0  # seconds that a server has to send them
LAST_PATIENCE = 2.0  # seconds that a server has, behind the finish reason, to tell its usage and say that it is done
END_PATIENCE = 0.5  # seconds that a server has, behind a whole answer, to end its response
PAGE = "text/html"  # any other type may be that of events, which some servers call JSON

StandIn = Callable[[GenerationRequest], Generation]


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent. path: below the base URL; headers: of this request.

    max_tokens: as many as the body asks for; own: the fields that it has of those which no client has asked for;
    without: those that are left out of it.
    """

    path: str
    body: bytes | LargeBody
    headers: Mapping[str, str]
    tls: ssl.SSLContext | bool
    max_tokens: int
    own: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Amendments:
    """What is done where a server refuses what no client has asked for.

    amended: returns what is sent in place of a letter, given the refusal in lower case, or None; called by a thread of
    its own. accepted: called with the fields without which a server took what it had just refused.
    """

    amended: Callable[[Letter, str], Letter | None]
    accepted: Callable[[frozenset[str]], None]


NO_AMENDMENTS = Amendments(lambda letter, said: None, lambda fields: None)


class Call:
    """One request, from its admission to its end. on_end: called once, with how the answer ended.

    Its prompt, images included, is kept only while another attempt may follow.
    """

    def __init__(
        self,
        upstream: Upstream,
        fleet: Fleet,
        loop: UpstreamLoop,
        request: GenerationRequest,
        letter: Letter,
        amendments: Amendments,
        prefix: bytes,
        estimate: int,
        check: AnswerCheck,
        stand_in: StandIn | None,
        on_end: Callable[[Call], None],
        arrival: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream, self._fleet, self._loop, self._letter = upstream, fleet, loop, letter
        self._request, self._prefix, self._check, self._on_end = request, prefix, check, on_end
        self._estimate, self._amendments, self._amended = estimate, amendments, 0
        self._tried: tuple[Replica, frozenset[str]] | None = None  # which server is asked again without which fields
        self._arrival, self._clock = arrival, clock
        timeout = min(upstream.timeout or request.timeout, request.timeout)
        self._until = arrival + timeout
        self.generation = UpstreamGeneration(
            request.request_id,
            estimate,
            arrival + request.timeout,
            partial(loop.soon, self.cancel),
            clock,
            max_tokens=letter.max_tokens,
        )
        self._stand_in = stand_in
        self._inner: Generation | None = None  # of what stands in
        self._handing_on = False  # it is being asked, and its answer must not be lost sight of
        self.reader = self._new_reader()
        self._began = arrival  # the attempt that answers
        self._first_at: float | None = None
        self._streaming = False  # the head of the attempt's answer has come
        self._task: asyncio.Task[None] | None = None
        self._cancelled = self._over = self._forgotten = False
        self._failed_here: set[Replica] = set()  # those that have failed for this request
        self.retries = 0

    def start(self) -> None:
        """Begin, in the loop's thread."""
        self._task = self._loop.spawn(self._run())
        self._task.add_done_callback(self._task_ended)
        if self._cancelled:
            self._task.cancel()

    def cancel(self) -> None:
        """Stop: the connection is closed, by which the server knows."""
        self._cancelled = True
        if self._inner is not None:
            self._inner.abort()
        elif self._task is not None and not self._handing_on:
            self._task.cancel()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """End a request whose task was cancelled, even before its first step, or failed where nobody expects it."""
        if self._over or self._inner is not None:
            return
        if task.cancelled():
            self._end_with(RequestAborted("The request was stopped."))
            with contextlib.suppress(asyncio.CancelledError):
                task.result()  # takes the error, which knows the frames of the task, out of it
            return
        log.error("A request to %s failed unexpectedly.", self._upstream.name, exc_info=task.exception())
        self._end_with(EngineDead("The request failed."))

    async def _run(self) -> None:
        try:
            await self._attempts()
        except ServiceError as error:
            if (last := await self._handed_on(error)) is not None:
                self._end_with(last)
                forget_frames(last)
            forget_frames(error)

    async def _attempts(self) -> None:
        failed: dict[Replica, _Refusal] = {}
        error: ServiceError | None = None
        while True:
            replica = self._fleet.choose(self._prefix, failed) or _soonest(failed)
            if replica is None:
                raise error or away(self._fleet.left_open())
            if self._clock() >= self._until:  # no server is to blame for what it was not asked in time
                raise error or UpstreamTimedOut(OUT_OF_TIME)
            try:
                await self._attempt(replica)
                return
            except AttemptFailed as failure:
                if await self._amend(replica, failure):
                    continue
                self._check_repeatable(failure)
                error = failure.error
                failed[replica] = _Refusal(self._clock() + (failure.retry_after or 0), error)
                self.retries += 1
                self._restart()  # before the pause, in which a client may begin to listen
                others = any(one.usable and one not in failed for one in self._fleet.replicas)
                await asyncio.sleep(0 if others else self._delay(failed[_soonest(failed) or replica]))

    async def _handed_on(self, error: ServiceError) -> ServiceError | None:
        """Ask what stands in, where nothing was handed to the client; return the error that is left if it is not.

        Of what the server does not take, the word of what stands in counts.
        """
        limited = isinstance(error, LIMITS)
        refused = (limited or isinstance(error, RetryLater)) and self.reader.finish_reason is None  # not by the check
        theirs = refused or isinstance(error, UpstreamFailed | UpstreamTimedOut)
        if self._stand_in is None or not theirs or not self.generation.take_back():
            return error
        self._handing_on = True
        asked = self._loop.in_thread(self._ask, self._stand_in)
        try:
            inner = await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_abort)
            raise
        except ServiceError as refusal:
            return refusal if limited and isinstance(refusal, (*LIMITS, RetryLater)) else error
        except Exception:  # a bug of ours, or one behind the checkpoint's interface
            log.exception("What stands in for %s failed unexpectedly.", self._upstream.name)
            return error
        finally:
            del asked  # an error of its knows this frame
        self._restart()
        self._inner = inner
        self._forget()
        if self._cancelled:
            inner.abort()
        inner.listen(lambda piece: self._loop.soon(self._from_inner, inner, piece), streaming=True)
        return None

    def _ask(self, stand_in: StandIn) -> Generation:
        """Ask what stands in, in a thread that may wait; with the time that is left. Raises what it raises."""
        request = self._request  # before the look, since one that ends meanwhile has no prompt any more
        left = self._arrival + request.timeout - self._clock()
        if left <= 0 or self._cancelled or self._over:
            raise RequestAborted("The request was stopped.")
        return stand_in(replace(request, timeout=left))

    def _from_inner(self, inner: Generation, piece: Piece | None) -> None:
        if piece is not None:
            self.generation.push(piece)
            self.generation.begin()
            self.generation.flush()
            return
        self._on_end(self)
        try:
            self.generation.finish(inner.result())
        except ServiceError as error:
            self.generation.fail(error, inner.spent)

    async def _amend(self, replica: Replica, failure: AttemptFailed) -> bool:
        """Return whether a refusal was of something that no client has asked for, which is sent otherwise then."""
        if failure.said is None or self._amended >= MOST or self._clock() >= self._until:
            return False
        made = self._loop.in_thread(self._amendments.amended, self._letter, failure.said)
        letter = await asyncio.wrap_future(made)
        if letter is None:
            return False
        self._amended += 1
        fields = letter.without - self._letter.without
        self._tried = (replica, fields) if fields else None
        self._letter = letter
        self.generation.max_tokens = letter.max_tokens
        self._restart()
        return True

    def _check_repeatable(self, failure: AttemptFailed) -> None:
        """Raise the error of a failure behind which no attempt follows; take back what came in this one."""
        if not failure.repeats or self.retries >= self._upstream.retries:
            raise failure.error
        if self._clock() >= self._until:
            raise UpstreamTimedOut(SILENT)
        if not self.generation.take_back():
            raise failure.error

    def _delay(self, refusal: _Refusal) -> float:
        """Return the seconds before the next attempt at a server. Raises its error where that is too long."""
        pause = max(0.0, refusal.until - self._clock())
        if pause > PATIENCE or (pause and refusal.until >= self._until):
            raise refusal.error
        return pause + random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**self.retries))  # nosec B311 # no secret

    def _restart(self) -> None:
        reader = self.reader
        if reader.told or (reader.begun and reader.finish_reason is not None):  # the provider charges for it
            self.generation.repeat(Spent(reader.prompt_tokens, reader.output_tokens, reader.cached_tokens))
        self._first_at, self._streaming = None, False
        self.reader = self._new_reader()

    def _note_answer(self, replica: Replica) -> None:
        """Once a server answers, learn what it takes, and drop the prompt where no attempt can follow this one.

        Not before: some refuse within a stream, whose status says nothing then.
        """
        if not self.reader.begun and self.reader.finish_reason is None:
            return
        if self._tried is not None and self._tried[0] is replica:
            self._amendments.accepted(self._tried[1])
            self._tried = None
        last = self.retries >= self._upstream.retries and self._stand_in is None
        if not self._forgotten and (last or self.generation.handed):
            self._forget()

    def _forget(self) -> None:
        """Drop what only another attempt needs: with images, that is tens of megabytes."""
        if self._forgotten:
            return
        self._forgotten = True
        self._request = replace(self._request, prompt=TextPrompt(""))
        self._letter, self._amendments = replace(self._letter, body=b""), NO_AMENDMENTS

    def _new_reader(self) -> AnswerReader:
        return AnswerReader(self._request, self._estimate, self._letter.max_tokens)

    async def _attempt(self, replica: Replica) -> None:
        """Ask one server. Raises AttemptFailed, and ServiceError for what no other attempt mends."""
        request = replica.enter()
        self._began = self._clock()
        watch = Watch(self._upstream, self._until, self._clock)
        try:
            with watch:
                await self._exchange(replica, watch)
        except asyncio.CancelledError:
            if self._cancelled or not watch.expired:
                raise
            raise self._noted(replica, AttemptFailed("timeout", UpstreamTimedOut(SILENT))) from None
        except Exception as error:
            forget_frames(error)  # aiohttp keeps the error of a connection
            raise self._noted(replica, of_exception(error, self._upstream.max_model_len)) from None
        finally:
            replica.leave(request)

    def _noted(self, replica: Replica, failure: AttemptFailed) -> AttemptFailed:
        if failure.counts or failure.repeats:
            client = None if replica in self._failed_here else self._request.client
            replica.failed(failure, client, begun=self._streaming)
            self._failed_here.add(replica)
        elif failure.said is not None:
            replica.refused(failure.kind)
        else:
            replica.succeeded()  # it has answered; its answer is withheld, or was not checked
        return failure

    async def _exchange(self, replica: Replica, watch: Watch) -> None:
        async with self._loop.session.post(  # no name of its own for the letter, which would be kept until the end
            replica.url + self._letter.path,
            data=self._letter.body,
            headers=self._letter.headers,
            allow_redirects=False,
            ssl=self._letter.tls,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._upstream.connect_timeout),
        ) as response:
            if response.status != 200:
                watch.stop()  # whatever becomes of the rest, the status says what to do
                body = await _beginning(response)
                after = retry_after_of(response.headers.get("Retry-After"))
                raise of_status(response.status, after, body, self._upstream.max_model_len)
            if response.content_type == PAGE:
                raise AttemptFailed("nonsense", UpstreamFailed(NONSENSE))
            self._streaming = True
            await self._read(response, replica, watch)
            self._note_answer(replica)
            replica.succeeded()
            await self._check_form()
            self._finish()
            await self._read_end(response)

    async def _read(self, response: aiohttp.ClientResponse, replica: Replica, watch: Watch) -> None:
        events, reader = EventReader(), self.reader
        async for chunk in response.content.iter_any():
            for data in events.feed(chunk):
                watch.heard()
                self._take(data, replica)
            if reader.done or reader.finish_reason is not None:
                break
            self.generation.flush()
            self._note_answer(replica)
        watch.stop()
        if not reader.done:
            await self._read_rest(response, events, replica)
        if (last := reader.end()) is not None:
            self._came(last, replica)

    async def _read_rest(self, response: aiohttp.ClientResponse, events: EventReader, replica: Replica) -> None:
        """Read what follows the finish reason, such as the usage: the answer is whole without it, too.

        Some servers give a reason with every part, so that each part may have another behind it.
        """
        self.generation.flush()
        self._note_answer(replica)
        with contextlib.suppress(aiohttp.ClientError, OSError, EventTooLong):  # a time-out is an OSError
            async with asyncio.timeout(LAST_PATIENCE) as limit:
                while not self.reader.done and (chunk := await response.content.readany()):
                    parts = [self._take(data, replica) for data in events.feed(chunk)]
                    if any(parts):
                        left = min(self._upstream.idle_timeout, self._until - self._clock())
                        limit.reschedule(asyncio.get_running_loop().time() + left)
                    self.generation.flush()
            for data in events.rest():
                self._take(data, replica)

    def _take(self, data: bytes, replica: Replica) -> bool:
        """Take an event; return whether it held a part of the answer."""
        if (piece := self.reader.read(data)) is not None:
            self._came(piece, replica)
        return piece is not None

    async def _check_form(self) -> None:
        """Hold the answer to the rules of its request; the server is not to blame for the time that this takes."""
        reader = self.reader
        try:
            await self._check.check(reader.said, reader.calls, reader.cut)
        except (UpstreamFailed, ValidationError, Overloaded) as error:
            repeats = isinstance(error, UpstreamFailed)
            raise AttemptFailed("broken_form", error, counts=False, repeats=repeats) from None

    async def _read_end(self, response: aiohttp.ClientResponse) -> None:
        """Read what follows the answer, which is its end, so that the connection serves another request."""
        with contextlib.suppress(Exception):  # the answer is whole
            async with asyncio.timeout(END_PATIENCE):
                while await response.content.readany():
                    pass

    def _came(self, piece: Piece, replica: Replica) -> None:
        self.generation.push(piece)
        if self._first_at is None:
            self._first_at = self._clock()
            if replica.state != CLOSED:
                replica.succeeded()
            self.generation.begin()

    def _finish(self) -> None:
        now = self._clock()
        first = None if self._first_at is None else self._first_at - self._arrival
        timings = Timings(self._began - self._arrival, first, now - self._arrival)
        self._over = True
        self._forget()
        self._on_end(self)
        self.generation.finish(self.reader.completion(timings))

    def _end_with(self, error: ServiceError) -> None:
        self._over = True
        self._forget()
        self.generation.take_back()
        reader = self.reader
        spent = (
            Spent(reader.prompt_tokens, reader.output_tokens, reader.cached_tokens, self._clock() - self._began)
            if reader.begun
            else Spent()
        )
        self._on_end(self)
        self.generation.fail(error, spent)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A failed attempt. until: when its server may be asked again, by the clock; error: what it failed with."""

    until: float
    error: ServiceError


def _soonest(failed: Mapping[Replica, _Refusal]) -> Replica | None:
    """Return the server, of those that have failed and are usable, that may be asked again first."""
    usable = [one for one in failed if one.usable]
    return min(usable, key=lambda one: failed[one].until, default=None)


def _abort(asked: Future[Generation]) -> None:
    """Abort an answer that nobody is left to hear."""
    if not asked.cancelled() and asked.exception() is None:
        asked.result().abort()


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of a refusal's body, as far as it comes."""
    body = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(ERROR_PATIENCE):
            while len(body) < ERROR_BYTES and (part := await response.content.readany()):
                body += part
    return bytes(body[:ERROR_BYTES])
