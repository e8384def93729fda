"""Applies one load to a running server over HTTP and summarises it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from benchmarks.harness.figures import Figures, Objective, Outcome, summary
from benchmarks.harness.http_client import Target, ask
from benchmarks.harness.load import Tick, closed_loop, open_loop
from benchmarks.harness.workload import Job, Workload, arrivals

FEWEST_REQUESTS = 8  # in a closed loop of few clients


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of `clients` that wait for their answers, or an open loop of `rate` requests per second."""

    clients: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """The load's name in tables."""
        return f"c={self.clients}" if self.clients else f"{self.rate:g}/s"


@dataclass(frozen=True, slots=True)
class Plan:
    """How each load is measured. each: requests per client at most; seconds: after which no new one is sent."""

    workload: Workload = Workload()
    each: int = 3
    seconds: float = 30.0
    objective: Objective = Objective()
    seed: int = 0

    def jobs(self, load: Load) -> list[Job]:
        """Return the requests of a closed loop."""
        return self.workload.jobs(max(FEWEST_REQUESTS, self.each * load.clients), self.seed, load.name)


async def measure(target: Target, load: Load, plan: Plan, tick: Tick = lambda: None) -> Figures:
    """Apply one load to the server; return its figures."""

    async def send(job: Job, due: float) -> Outcome:
        return await ask(target, job, due)

    if load.clients:
        done, seconds = await closed_loop(send, plan.jobs(load), load.clients, plan.seconds, tick)
    else:
        due = list(arrivals(load.rate, plan.seconds, plan.seed, load.name))
        jobs = plan.workload.jobs(len(due), plan.seed, load.name)
        done, seconds = await open_loop(send, jobs, due, tick)
    return summary(done, max(seconds, 1e-9), plan.objective)


async def warm_up(target: Target, workload: Workload, clients: int, seed: object) -> None:
    """Send one short request per client, so that one-time work of the server is not measured."""
    short = Workload(tokens=8, temperature=workload.temperature, images=workload.images)
    await asyncio.gather(*(ask(target, job, 0.0) for job in short.jobs(clients, seed, "warm-up")))
