"""Closed and open loops of requests. How a request is sent is the caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness.figures import Outcome
from benchmarks.harness.workload import Job

# Sends one request that was due at a time on the clock of the loop, and returns its outcome.
Send = Callable[[Job, float], Awaitable[Outcome]]
Tick = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timer:
    """Time as a loop sees it, in seconds."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


async def closed_loop(
    send: Send, jobs: Iterable[Job], clients: int, seconds: float, tick: Tick, timer: Timer = Timer()
) -> tuple[list[Outcome], float]:
    """Let each of `clients` send its next request after its last answer, until the jobs or the `seconds` run out.

    Returns the outcomes, and the seconds from the first request to the last answer. tick: called after each answer.
    """
    began = timer.now()
    pending, outcomes = iter(jobs), list[Outcome]()

    async def client() -> None:
        for job in _until(pending, began + seconds, timer.now):
            outcomes.append(await send(job, timer.now()))
            tick()

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes, timer.now() - began


async def open_loop(
    send: Send, jobs: Sequence[Job], due: Sequence[float], tick: Tick, timer: Timer = Timer()
) -> tuple[list[Outcome], float]:
    """Send each job when it is `due` (seconds from now), whether or not earlier ones are answered.

    A request is timed from when it was due, even if this process was late to send it.
    """
    began = timer.now()

    async def one(job: Job, at: float) -> Outcome:
        await timer.sleep(max(0.0, at - timer.now()))
        outcome = await send(job, at)
        tick()
        return outcome

    outcomes = await asyncio.gather(*(one(job, began + at) for job, at in zip(jobs, due, strict=True)))
    return outcomes, timer.now() - began


def _until(jobs: Iterator[Job], end: float, now: Callable[[], float]) -> Iterator[Job]:
    for job in jobs:
        yield job
        if now() >= end:
            return
