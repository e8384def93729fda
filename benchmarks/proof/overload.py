"""More requests than there is capacity, which come whether or not earlier ones are answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.proof.observer import Seen, observing
from benchmarks.proof.report import Report, milliseconds, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, Answer, OwnCpu, ask, chat, closed_loop, open_loop, request

# Of answers. Were all as long, those of a closed loop would begin and end together, at less cost than any other load.
FEWEST, MOST = 200, 400
SLOTS, WAITING = 64, 128  # the settings' defaults
CLIENTS = 200
LARGE_EVERY = 25  # of so many requests one has a body of 60 MB, of which it sends the head and a first part
LARGE_HEAD = 200_000  # bytes that are sent of it
LARGE_PATIENCE = 5.0  # seconds that the answer to it is waited for; there is none where the body is to be read
TIMES = (2, 10)
ROUNDS = 2  # of floods in turn, at most: a machine's pace changes within a minute by as much as is looked for
REFUSED = (429, 503)


@dataclass(slots=True)
class Load:
    """What one load brought. large: the answers to those with huge bodies; seconds: from the first request to the last
    answer, those apart.
    """

    answers: list[Answer] = field(default_factory=list)
    large: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    async def add(self, service: Service, number: int) -> None:
        """Send one chat request and wait for its answer."""
        self.answers.append(await ask(service.port, chat(f"item {number}", _tokens(number), _client(number))))
        self.seconds = time.perf_counter() - self._began

    @property
    def complete(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.complete]

    @property
    def goodput(self) -> float:
        """Complete answers a second."""
        return len(self.complete) / self.seconds

    @property
    def first(self) -> float | None:
        """Seconds to the first token at the 95th percentile of the complete answers."""
        return percentile((answer.first for answer in self.complete), 95)


async def full_service(service: Service, seconds: float, clients: int) -> Load:
    """Keep `clients` waiting for their answers for some seconds."""
    load = Load()

    async def one(number: int) -> None:
        await load.add(service, number)

    await closed_loop(clients, seconds, one)
    return load


async def flood(service: Service, rate: float, seconds: float) -> Load:
    """Send `rate` requests a second; some have huge bodies."""
    load = Load()

    async def one(number: int) -> None:
        if number % LARGE_EVERY:
            await load.add(service, number)
        else:
            data = request(CHAT, b'{"model":"' + b"x" * LARGE_HEAD, _client(number), Content_Length="60000000")
            load.large.append(await ask(service.port, data, LARGE_PATIENCE))

    await open_loop(rate, seconds, one)
    return load


def run(size: Size) -> Report:
    """Find the capacity before and behind each flood of a multiple of it."""
    report = Report("overload", "a flood is refused at once, and those who were admitted do not feel it")
    cpu, floods = OwnCpu(), {times: _Floods() for times in TIMES}
    with serving(size.model, apart=True, REQUEST_TIMEOUT="120", QUEUE_TIMEOUT="60") as service:
        asyncio.run(full_service(service, 3, 8))
        full = asyncio.run(full_service(service, size.seconds, SLOTS + WAITING))
        capacities = [_capacity(service, size.seconds)]
        for times in TIMES * min(ROUNDS, size.rounds):
            with observing(service, stream=False) as seen:
                load = asyncio.run(flood(service, times * capacities[-1], size.seconds))
            service.seconds_until_quiet()
            capacities.append(_capacity(service, size.seconds))
            floods[times].add(load, sum(capacities[-2:]) / 2, seen)
        report.notes |= {"capacities_per_second": capacities, "first_token_p95_full_s": full.first}
        for times, found in floods.items():
            _judge(report, times, found, full.first)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


@dataclass(slots=True)
class _Floods:
    """What the floods of one multiple brought. goodputs, capacities: a second, of each; probes: seconds of each."""

    loads: list[Load] = field(default_factory=list)
    goodputs: list[float] = field(default_factory=list)
    capacities: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    probes_failed: int = 0

    def add(self, load: Load, capacity: float, seen: Seen) -> None:
        self.loads.append(load)
        self.goodputs.append(load.goodput)
        self.capacities.append(capacity)
        self.probes += seen.all_probes
        self.probes_failed += seen.failed


def _capacity(service: Service, seconds: float) -> float:
    """Return the complete answers a second of a service whose places are all taken, watched as in the floods."""
    with observing(service, stream=False):
        return asyncio.run(full_service(service, seconds, SLOTS)).goodput


def _judge(report: Report, times: int, found: _Floods, full_first: float | None) -> None:
    name, surely = f"{times}x", times > TIMES[0]  # twice the capacity may be short of a refusal, more is not
    answers = [answer for load in found.loads for answer in load.answers]
    large = [answer for load in found.loads for answer in load.large]
    refused = [answer for answer in answers if answer.status in REFUSED]
    for answer in (*answers, *(answer for answer in large if answer.status)):
        report.count(_trouble(name, answer))
    first = percentile((answer.first for load in found.loads for answer in load.complete), 95)
    report.notes[name] = {
        "statuses": dict(Counter(answer.status for answer in (*answers, *large))),
        "large_bodies": len(large),
        "large_bodies_refused": sum(bool(answer.status) for answer in large),
        "goodputs_per_second": found.goodputs,
        "capacities_around_per_second": found.capacities,
        "first_token_p95_s": first,
        "refusal_p50_ms": milliseconds(percentile((answer.head for answer in refused), 50)),
    }
    capacity = sum(found.capacities)
    goodput = sum(found.goodputs) / capacity if capacity else None
    report.check(f"{name}: goodput, of the capacity", goodput, 0.9, at_least=True)
    if refused or surely:
        report.check(f"{name}: refusal p99, ms", milliseconds(percentile((a.head for a in refused), 99)), 50)
    turned = [answer.head for answer in large if answer.status]
    if turned or surely:  # while there is room, their bodies are read
        report.check(f"{name}: refusal of 60 MB from its head p99, ms", milliseconds(percentile(turned, 99)), 50)
    of_full = first / full_first if first is not None and full_first else None
    report.check(f"{name}: first token p95 of the admitted, of a full service's", of_full, 2)
    report.check(f"{name}: probes p99.9, ms", milliseconds(percentile(found.probes, 99.9)), 100)
    report.check(f"{name}: probes that failed", found.probes_failed, 0)


def _trouble(name: str, answer: Answer) -> str | None:
    if answer.status in REFUSED:
        return None if answer.retry_after else f"{name}: a refusal without Retry-After"
    if answer.status == 200 and not answer.complete:
        return f"{name}: admitted and then {answer.code or answer.trouble or 'cut off'}"
    return None if answer.typed else f"{name}: {answer.status or 'no answer'} {answer.trouble}"


def _tokens(number: int) -> int:
    return FEWEST + number * 37 % (MOST - FEWEST + 1)


def _client(number: int) -> str:
    return f"10.2.{number % CLIENTS}.1"
