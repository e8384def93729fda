"""More connections of one address than it may have in service, each of which asks on and on: nobody else waits."""

from __future__ import annotations

import asyncio

from benchmarks.proof.observer import observing
from benchmarks.proof.report import Report, milliseconds, percentile
from benchmarks.proof.service import DEADLINE, Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import Answer, OwnCpu, ask, closed_loop, request

CONNECTIONS = 1500
CROWD = "127.0.0.2"  # the address that they come from; others come from 127.0.0.1
PATHS = ("/", "/v1/models", "/nothing")


def run(size: Size) -> Report:
    """Hold up the service with each path, and watch the probes of another address."""
    report = Report("addresses", "a crowd of connections of one address holds up nobody of another one")
    cpu = OwnCpu()
    with serving(size.model, TRUSTED_PROXIES="0") as service:
        for path in PATHS:
            with observing(service, stream=False) as seen:
                answers = asyncio.run(_crowd(service, path, size.seconds))
            for answer in answers:
                report.count(None if answer.typed else f"{path}: {answer.status or answer.trouble}")
            report.notes[path] = {"answers": len(answers), "good": sum(answer.status == 200 for answer in answers)}
            report.check(f"{path}: probes p99.9, ms", milliseconds(percentile(seen.all_probes, 99.9)), 100)
            report.check(f"{path}: probes that failed", seen.failed, 0)
            report.check(f"{path}: seconds until nothing is in flight", service.seconds_until_quiet(), 5)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


async def _crowd(service: Service, path: str, seconds: float) -> list[Answer]:
    """Return the answers that so many connections got, each of which was followed by another one."""
    answers: list[Answer] = []
    data = request(path)

    async def one(_: int) -> None:
        answers.append(await ask(service.port, data, 2 * DEADLINE, source=CROWD))

    await closed_loop(CONNECTIONS, seconds, one)
    return answers
