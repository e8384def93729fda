"""One load on a running server over HTTP, and the figures that come of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.figures import Objective, Outcome, summary
from benchmarks.harness.http_client import Target, ask
from benchmarks.harness.load import Tick, closed_loop, open_loop
from benchmarks.harness.workload import Job, Workload, arrivals

FEWEST_REQUESTS = 8  # in a closed loop of few clients


@dataclass(frozen=True, slots=True)
class Load:
    """One load: `clients` that wait for each answer, or else `rate` requests a second on average."""

    clients: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"c={self.clients}" if self.clients else f"{self.rate:g}/s"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each load is measured. each: requests a client makes at most; seconds: after which none is made."""

    workload: Workload = Workload()
    each: int = 3
    seconds: float = 30.0
    objective: Objective = Objective()
    seed: int = 0

    def jobs(self, load: Load) -> list[Job]:
        """Return the requests of a closed loop."""
        return self.workload.jobs(max(FEWEST_REQUESTS, self.each * load.clients), self.seed, load.name)


async def measure(target: Target, load: Load, plan: Plan, tick: Tick = lambda: None) -> dict[str, Any]:
    """Put one load on the server; return its figures."""

    async def asking(job: Job, due: float) -> Outcome:
        return await ask(target, job, due)

    if load.clients:
        done, seconds = await closed_loop(asking, plan.jobs(load), load.clients, plan.seconds, tick)
    else:
        moments = list(arrivals(load.rate, plan.seconds, plan.seed, load.name))
        jobs = plan.workload.jobs(len(moments), plan.seed, load.name)
        done, seconds = await open_loop(asking, jobs, moments, tick)
    return summary(done, max(seconds, 1e-9), plan.objective)


async def warm_up(target: Target, workload: Workload, clients: int, seed: object) -> None:
    """Send one short request for each client, so that what a server does only once is not measured."""
    short = Workload(tokens=8, temperature=workload.temperature, pictures=workload.pictures)
    await asyncio.gather(*(ask(target, job, 0.0) for job in short.jobs(clients, seed, "warm-up")))
