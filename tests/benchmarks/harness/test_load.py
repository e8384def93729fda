"""Closed and open loops over a server and a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.harness.figures import Outcome
from benchmarks.harness.load import Timer, closed_loop, open_loop
from benchmarks.harness.workload import Job, Workload

JOBS = Workload().jobs(10, "load")


@dataclass
class Clock:
    """Advances only when it is set; records every requested sleep."""

    time: float = 1000.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    @property
    def timer(self) -> Timer:
        return Timer(lambda: self.time, self.sleep)


class Server:
    """Counts concurrent requests; answers after some iterations of the event loop; advances the clock by a second."""

    def __init__(self, clock: Clock) -> None:
        self.open = self.most = 0
        self.received: list[Job] = []
        self._clock = clock

    async def send(self, job: Job, due: float) -> Outcome:
        self.received.append(job)
        self.open += 1
        self.most = max(self.most, self.open)
        for _ in range(3):
            await asyncio.sleep(0)
        self.open -= 1
        self._clock.time += 1.0
        return Outcome(1.0, tokens=1)


def ticks() -> tuple[list[int], Callable[[], object]]:
    """Return a list that grows with each tick, and the tick."""
    counted: list[int] = []
    return counted, lambda: counted.append(1)


def test_a_closed_loop_keeps_to_its_clients() -> None:
    """Never more than c requests at once, each job sent once."""
    clock = Clock()
    server, (counted, tick) = Server(clock), ticks()
    outcomes, seconds = asyncio.run(closed_loop(server.send, JOBS, 4, 60.0, tick, clock.timer))
    assert (server.most, len(outcomes), len(counted)) == (4, 10, 10)
    assert sorted(server.received, key=repr) == sorted(JOBS, key=repr)
    assert seconds == 10.0


def test_a_closed_loop_sends_nothing_new_when_its_time_is_over() -> None:
    """What was sent is still answered and counts."""
    clock = Clock()
    server, (_, tick) = Server(clock), ticks()
    outcomes, _ = asyncio.run(closed_loop(server.send, JOBS, 4, 0.0, tick, clock.timer))
    assert len(outcomes) == 4


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """Requests that are due are sent, however many are open; each is timed from when it was due."""
    clock, sent, all_sent = Clock(), list[float](), asyncio.Event()

    async def send(job: Job, due: float) -> Outcome:
        sent.append(due)
        if len(sent) == len(JOBS):
            all_sent.set()
        await all_sent.wait()
        clock.time = 1005.0
        return Outcome(1.0, tokens=1)

    counted, tick = ticks()
    due = [0.25 * number for number in range(len(JOBS))]
    outcomes, seconds = asyncio.run(open_loop(send, JOBS, due, tick, clock.timer))
    assert (len(outcomes), len(counted), seconds) == (10, 10, 5.0)
    assert sent == [1000.0 + at for at in due]
    assert clock.slept == due


def test_a_late_open_loop_sends_at_once() -> None:
    """A request that is overdue is not delayed, and still counts from when it was due."""
    clock, sent = Clock(), list[float]()

    async def send(job: Job, due: float) -> Outcome:
        sent.append(due)
        return Outcome(1.0, tokens=1)

    async def late() -> None:
        loop = open_loop(
            send, JOBS[:1], [0.5], lambda: None, Timer(iter([1000.0, 1002.0, 1002.0]).__next__, clock.sleep)
        )
        await loop

    asyncio.run(late())
    assert (clock.slept, sent) == ([0.0], [1000.5])
