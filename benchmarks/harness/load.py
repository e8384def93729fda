"""Closed and open loops: who asks when. The asking itself is the caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from benchmarks.harness.figures import Outcome
from benchmarks.harness.workload import Job

# Asks one request that was due at a moment of `time.perf_counter`.
Ask = Callable[[Job, float], Awaitable[Outcome]]
Tick = Callable[[], object]


async def closed_loop(
    ask: Ask, jobs: Iterable[Job], clients: int, seconds: float, tick: Tick
) -> tuple[list[Outcome], float]:
    """Let `clients` ask one after another, until the jobs are used up or `seconds` are over; then all finish.

    Returns the outcomes and the seconds from the first request to the last answer. tick: called at each end.
    """
    began = time.perf_counter()
    pending, outcomes = iter(jobs), list[Outcome]()

    async def client() -> None:
        for job in _until(pending, began + seconds):
            outcomes.append(await ask(job, time.perf_counter()))
            tick()

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes, time.perf_counter() - began


async def open_loop(ask: Ask, jobs: Sequence[Job], moments: Sequence[float], tick: Tick) -> tuple[list[Outcome], float]:
    """Ask each job at its moment (seconds from now), whether or not the others are answered.

    A request counts from its moment, also where this process was late to send it.
    """
    began = time.perf_counter()

    async def one(job: Job, due: float) -> Outcome:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        outcome = await ask(job, due)
        tick()
        return outcome

    outcomes = await asyncio.gather(*(one(job, began + at) for job, at in zip(jobs, moments, strict=True)))
    return outcomes, time.perf_counter() - began


def _until(jobs: Iterator[Job], end: float) -> Iterator[Job]:
    for job in jobs:
        yield job
        if time.perf_counter() >= end:
            return
