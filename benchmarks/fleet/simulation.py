"""A fleet: conversations that arrive at a balancer, copies, the loss of some, an autoscaler; and what clients see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import simpy

from benchmarks.fleet.autoscaler import PERIOD, Autoscaler, Signal
from benchmarks.fleet.balancer import Balancer
from benchmarks.fleet.replica import Job, Machine, Replica
from benchmarks.fleet.traffic import THINKING, TURNS, Conversations, Lengths, Turn
from benchmarks.harness.figures import Objective, Outcome, percentile

OBJECTIVE = Objective(first=1.0, per_token=0.05)
RETRY_AFTER = 1.0  # seconds after which a client repeats a request that was lost with its copy
UNREACHABLE = 2.0  # seconds until a balancer gives up connecting to a machine that is gone (`timeout connect`)
CHECKED = 2.0  # seconds until its health check has noticed that


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens. rate: requests a second over all copies, as a function of the time, in seconds.

    losses: times at which a machine is gone, with the requests on it; measured: from when to when requests are due that
    count.
    """

    machine: Machine
    replicas: int
    rate: Callable[[float], float]
    peak: float
    measured: tuple[float, float]
    rule: str = "leastconn"
    losses: tuple[float, ...] = ()
    replaced: bool = True
    signal: Signal | None = None
    most: int = 0
    lengths: Lengths | None = None
    turns: float = TURNS
    thinking: float = THINKING
    seed: int = 0


@dataclass(slots=True)
class Seen:
    """What was seen: outcomes by when they were due; copies as (time, ready and starting)."""

    outcomes: list[tuple[float, Outcome]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    replica_seconds: float = 0.0
    most: int = 0  # copies, with those that start
    computed: int = 0
    reused: int = 0
    busy: float = 0.0

    def between(self, start: float, end: float) -> list[Outcome]:
        """Return the outcomes of the requests that were due in this time."""
        return [outcome for due, outcome in self.outcomes if start <= due < end]


def within(outcomes: list[Outcome], objective: Objective = OBJECTIVE) -> float:
    """Return the share of requests that met the objective."""
    return sum(objective.met(outcome) for outcome in outcomes) / max(1, len(outcomes))


def first_token(outcomes: list[Outcome], percent: float) -> float:
    """Return a percentile of the time to the first token, in seconds."""
    return percentile([o.first for o in outcomes if o.first is not None and o.error is None], percent) or 0.0


class Fleet:
    """Runs one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.env = scenario, simpy.Environment()
        self.seen = Seen()
        self._conversations = Conversations(scenario.seed, scenario.lengths, scenario.turns)
        self._rng = self._conversations.rng
        self._balancer = Balancer(scenario.rule, scenario.seed)
        self._all: list[Replica] = []
        self._starting = 0

    def run(self) -> Seen:
        """Run until the measured requests have ended or 60 s have passed after the last; return what was seen."""
        for _ in range(self.scenario.replicas):
            self._join()
        self._think_at_first()
        self.env.process(self._arrivals())
        for at in self.scenario.losses:
            self._later(at, self._lose)
        if self.scenario.signal is not None:
            self.env.process(self._scale(self.scenario.signal))
        self.env.process(self._account())
        self.env.run(self.scenario.measured[1] + 60)
        for replica in self._all:
            self.seen.computed += replica.computed
            self.seen.reused += replica.reused
            self.seen.busy += replica.busy
        return self.seen

    # --- copies ---

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self.env.timeout(seconds).callbacks.append(lambda _: then())

    def _join(self) -> None:
        replica = Replica(self.env, self.scenario.machine, len(self._all))
        self._all.append(replica)
        self._balancer.add(replica)

    def _start_one(self) -> None:
        self._starting += 1

        def ready() -> None:
            self._starting -= 1
            self._join()

        self._later(self.scenario.machine.start, ready)

    def _lose(self) -> None:
        """Take the machine of one copy away; the balancer notices by its checks, and a new copy is started."""
        replica = self._balancer.replicas[len(self._balancer.replicas) // 2]
        replica.die()
        self._later(CHECKED, lambda: self._balancer.remove(replica))
        if self.scenario.replaced:
            self._start_one()

    def _scale(self, signal: Signal) -> Any:
        scaler = Autoscaler(signal, self.scenario.replicas, self.scenario.most)
        while True:
            yield self.env.timeout(PERIOD)
            ready = self._balancer.replicas
            change = scaler.wanted(ready, self._starting) - len(ready) - self._starting
            for _ in range(change):
                self._start_one()
            for _ in range(min(-change, len(ready) - 1)):
                self._balancer.remove(ready[-1])  # it drains

    def _account(self) -> Any:
        start, end = self.scenario.measured
        while True:
            if start <= self.env.now < end:
                copies = len(self._balancer.replicas) + self._starting
                self.seen.replica_seconds += copies
                self.seen.most = max(self.seen.most, copies)
            yield self.env.timeout(1.0)

    # --- requests ---

    def _think_at_first(self) -> None:
        """Let as many conversations be between two turns as there are on average at this rate."""
        rate, turns, thinking = self.scenario.rate(0.0), self.scenario.turns, self.scenario.thinking
        for _ in range(round(rate * (1 - 1 / turns) * thinking)):
            self._think(self._conversations.next())

    def _arrivals(self) -> Any:
        """Start conversations as a Poisson process of changing rate, by thinning."""
        most = self.scenario.peak / self.scenario.turns
        while self.env.now < self.scenario.measured[1]:
            yield self.env.timeout(self._rng.expovariate(most))
            if self._rng.random() * self.scenario.peak < self.scenario.rate(self.env.now):
                self._send(self._conversations.next(), self.env.now)

    def _think(self, turn: Turn) -> None:
        if self.env.now > self.scenario.measured[1]:
            return  # what is due later does not count
        seconds = self._rng.expovariate(1 / self.scenario.thinking)
        self._later(seconds, lambda: self._send(turn, self.env.now))

    def _send(self, turn: Turn, due: float) -> None:
        replica = self._balancer.choose(turn.conversation)
        job = Job(turn, due, lambda ended: self._ended(replica, ended))
        if replica.alive:
            replica.submit(job)
        else:
            self._later(UNREACHABLE, lambda: self._send_elsewhere(replica, turn, due))

    def _send_elsewhere(self, gone: Replica, turn: Turn, due: float) -> None:
        gone.outstanding -= 1
        self._balancer.ended(gone)
        self._send(turn, due)

    def _ended(self, replica: Replica, job: Job) -> None:
        self._balancer.ended(replica)
        first = None if job.first is None else job.first - job.due
        outcome = Outcome(job.ended - job.due, job.turn.answer, first, error=job.error)
        self.seen.outcomes.append((job.due, outcome))
        if job.error is not None:
            self.seen.errors[job.error] = self.seen.errors.get(job.error, 0) + 1
        if job.error == "lost":
            self._later(RETRY_AFTER, lambda: self._send(job.turn, self.env.now))
        elif job.turn.following is not None and job.error is None:
            self._think(job.turn.following)
