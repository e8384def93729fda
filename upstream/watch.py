"""The time-outs of one attempt at a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config import Upstream


class Watch:
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
