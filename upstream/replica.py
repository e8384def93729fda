"""One server of an upstream: its circuit breaker, and what is known of it. Used by the event loop's thread.

A request may be what a server fails at: one that exhausts it, or that it has a bug with. So a client's own failures,
however many, open no breaker, which would keep the server from all others; another client must have failed as well, or
the server be away, since the last answer. And many requests may fail at one thing: where several processes answer
behind one address, all streams of one that is lost break off together, while the others are well. So streams that break
off within a second of the first of them are one failure.

What others read, for status and metrics, is single values that may be read at any time.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import pybreaker

from engine.types import ServerReport
from upstream.failures import AttemptFailed

log = logging.getLogger("avito_ai.upstream")

LOG_EVERY = 60.0  # seconds between two warnings of settings that seem wrong
TOGETHER = 1.0  # seconds, by the first of them, in which streams that break off are one failure
CLOSED, HALF_OPEN, OPEN = "closed", "half-open", "open"  # as pybreaker calls them


class Replica:
    """A server. number: its place in the settings; fail_max: failures without an answer between that open its breaker;
    reset: seconds that it stays open.
    """

    def __init__(
        self,
        model: str,
        number: int,
        url: str,
        fail_max: int,
        reset: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.number, self.url, self._clock = model, number, url, clock
        self._fail_max, self._reset = fail_max, reset
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=fail_max, reset_timeout=reset, throw_new_error_on_trip=False, name=f"{model}[{number}]"
        )
        self.outstanding = self.requests = self.opened = 0
        self.failures: Counter[str] = Counter()
        self.last_failure: str | None = None
        self._failed_at: float | None = None
        self._succeeded_at: float | None = None
        self._warned: tuple[str, float] | None = None  # of which failure, and when
        self._opened_at = 0.0
        self._trial: object | None = None  # a request in flight that decides whether the breaker closes
        self._times_away = 0  # without any answer between
        self._times_failed = 0  # in requests, without a good answer between
        self._failed_for: set[str] = set()  # the clients whose requests these were
        self._broke_off_at = float("-inf")  # the first stream of those that broke off together last

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return str(self._breaker.current_state)

    @property
    def usable(self) -> bool:
        """Whether a request may be sent; a breaker that is half open lets one through at a time."""
        return self.state == CLOSED or (self.state == HALF_OPEN and self._trial is None)

    @property
    def due(self) -> bool:
        """Whether the breaker has been open for long enough to try again."""
        return self.state == OPEN and self._clock() >= self._opened_at + self._reset

    @property
    def suspected(self) -> bool:
        """Whether the last requests have failed."""
        return bool(self._failed_for)

    @property
    def idle_since(self) -> float:
        """Seconds since the server was last known to answer; endless if never."""
        return float("inf") if self._succeeded_at is None else self._clock() - self._succeeded_at

    def left_open(self) -> float:
        """Return the seconds until an open breaker lets a request through."""
        return max(0.0, self._opened_at + self._reset - self._clock()) if self.state == OPEN else 0.0

    def enter(self) -> object:
        """Count a request that is sent, as the trial of a breaker that is half open; return what `leave` takes."""
        self.outstanding += 1
        self.requests += 1
        request = object()
        if self.state == HALF_OPEN:
            self._trial = request
        return request

    def leave(self, request: object) -> None:
        """Count the request no longer."""
        self.outstanding -= 1
        if self._trial is request:
            self._trial = None

    def answered(self) -> None:
        """Note that the server is there."""
        self._succeeded_at = self._clock()
        self._times_away = 0

    def succeeded(self) -> None:
        """Note a good answer; closes a breaker that is half open."""
        self.answered()
        self._forget_failures()
        if self.state == HALF_OPEN:
            self._breaker.close()
            self._note(HALF_OPEN)

    def refused(self, kind: str) -> None:
        """Note that the server has answered by refusing what a client sent. kind: of the refusal."""
        self.failures[kind] += 1
        log.info("%s, server %d, has refused a request: %s.", self.model, self.number, kind.replace("_", " "))
        self.succeeded()

    def failed(self, failure: AttemptFailed, client: str | None = None, begun: bool = False) -> None:
        """Note a failed attempt.

        client: whose request it was; None for a probe, and one that failed here before. begun: its stream had begun.
        """
        self.failures[failure.kind] += 1
        self.last_failure, self._failed_at = failure.kind, self._clock()
        if failure.settings:
            self._warn(failure.kind, self._failed_at)
        if not failure.counts:
            if self.state == HALF_OPEN and not failure.settings:
                self.succeeded()  # it is there, and has too much to do
            return
        if failure.away:
            self._times_away += 1
        elif client is not None:
            self._times_failed += not (begun and failure.breaks_off and self._another_broke_off())
            self._failed_for.add(client)
        if self.state != OPEN and self._broken:
            self.open()

    @property
    def _broken(self) -> bool:
        """Whether the failures since the last answer are the server's own."""
        most = 1 if self.state == HALF_OPEN else self._fail_max
        together = self._times_away + self._times_failed
        parties = len(self._failed_for) + bool(self._times_away)
        return self._times_away >= most or (together >= most and parties >= min(2, self._fail_max))

    def _another_broke_off(self) -> bool:
        """Return whether a stream that breaks off now does so together with one before; else it is the first."""
        now = self._clock()
        another = now < self._broke_off_at + TOGETHER
        if not another:
            self._broke_off_at = now
        return another

    def _forget_failures(self) -> None:
        self._times_failed = 0
        self._failed_for.clear()

    def half_open(self) -> None:
        """Let one request through."""
        self._breaker.half_open()
        self._trial = None
        self._times_away = 0
        self._broke_off_at = float("-inf")
        self._forget_failures()
        log.info("The breaker of %s, server %d, is half open: one request tries it.", self.model, self.number)

    def open(self) -> None:
        """Open the breaker, or keep it open for as long again."""
        before = self.state
        self._breaker.open()
        self._opened_at = self._clock()
        self._note(before)

    def report(self) -> ServerReport:
        """Return what is told of the server."""
        now = self._clock()
        return ServerReport(
            url=self.url,
            state=self.state,
            outstanding=self.outstanding,
            requests=self.requests,
            failures=dict(self.failures),
            last_failure=self.last_failure,
            seconds_since_failure=None if self._failed_at is None else now - self._failed_at,
            seconds_since_success=None if self._succeeded_at is None else now - self._succeeded_at,
            opened=self.opened,
        )

    def _warn(self, kind: str, now: float) -> None:
        if self._warned is not None and self._warned[0] == kind and now < self._warned[1] + LOG_EVERY:
            return
        self._warned = kind, now
        log.warning(
            "%s, server %d, answers with %s: a key, a name or an address in the settings is wrong.",
            self.model,
            self.number,
            kind.replace("_", " "),
        )

    def _note(self, before: str) -> None:
        after = self.state
        if after == before:
            return
        if after == OPEN:
            self.opened += 1
            log.warning("The breaker of %s, server %d, is open: %s.", self.model, self.number, self.last_failure)
        elif after == CLOSED:
            log.info("The breaker of %s, server %d, is closed: it answers again.", self.model, self.number)
