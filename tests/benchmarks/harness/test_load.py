"""Closed and open loops over an asking that only the test ends."""

from __future__ import annotations

import asyncio

from benchmarks.harness.figures import Outcome
from benchmarks.harness.load import closed_loop, open_loop
from benchmarks.harness.workload import Job, Workload

JOBS = Workload().jobs(10, "load")


class Server:
    """Counts who is asked at once; answers after a few turns of the loop."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.asked: list[Job] = []

    async def ask(self, job: Job, due: float) -> Outcome:
        self.asked.append(job)
        self.open += 1
        self.most = max(self.most, self.open)
        for _ in range(3):
            await asyncio.sleep(0)
        self.open -= 1
        return Outcome(1.0, tokens=1)


def ticks() -> tuple[list[int], object]:
    """Return a list that grows with each tick, and the tick."""
    counted: list[int] = []
    return counted, lambda: counted.append(1)


def test_a_closed_loop_keeps_to_its_clients() -> None:
    """Never more than c requests at once, each job asked once."""
    server, (counted, tick) = Server(), ticks()
    outcomes, seconds = asyncio.run(closed_loop(server.ask, JOBS, 4, 60.0, tick))
    assert (server.most, len(outcomes), len(counted)) == (4, 10, 10)
    assert sorted(server.asked, key=repr) == sorted(JOBS, key=repr)
    assert seconds > 0


def test_a_closed_loop_asks_nothing_new_when_its_time_is_over() -> None:
    """What was asked still ends and counts."""
    server, (_, tick) = Server(), ticks()
    outcomes, _ = asyncio.run(closed_loop(server.ask, JOBS, 4, 0.0, tick))
    assert len(outcomes) == 4


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """Requests that are due are sent, however many are open; each counts from its moment."""
    due, everybody = list[float](), asyncio.Event()

    async def ask(job: Job, moment: float) -> Outcome:
        due.append(moment)
        if len(due) == len(JOBS):
            everybody.set()
        await everybody.wait()
        return Outcome(1.0, tokens=1)

    counted, tick = ticks()
    moments = [0.0001 * number for number in range(len(JOBS))]
    outcomes, _ = asyncio.run(open_loop(ask, JOBS, moments, tick))
    assert (len(outcomes), len(counted)) == (10, 10)
    assert [round(moment - due[0], 6) for moment in due] == [round(moment, 6) for moment in moments]
