"""One client that asks for a hundred times its share, beside others that keep to theirs."""

from __future__ import annotations

import asyncio

from benchmarks.proof.report import Report, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import Answer, OwnCpu, ask, chat, open_loop

OTHERS = 10
EVERY = 1.0  # seconds between two requests of a client that keeps to its share
TOKENS = 64
TIMES = 100
ROUNDS = 4  # in which the two take turns: a machine's pace changes within a minute by more than is looked for
GREEDY = "10.6.6.6"


async def _others(service: Service, seconds: float) -> list[Answer]:
    """Let each of the others send a request a second, or its next one after its last."""
    answers: list[Answer] = []
    loop = asyncio.get_running_loop()

    async def client(name: int) -> None:
        await asyncio.sleep(name * EVERY / OTHERS)
        until = loop.time() + seconds
        while (began := loop.time()) < until:
            answers.append(await ask(service.port, chat(f"item {began}", TOKENS, f"10.5.{name}.1")))
            await asyncio.sleep(max(0.0, EVERY - (loop.time() - began)))

    await asyncio.gather(*(client(name) for name in range(OTHERS)))
    return answers


async def beside(service: Service, seconds: float, rate: float) -> tuple[list[Answer], list[Answer]]:
    """Return the answers of the others, and of the greedy client with `rate` requests a second."""
    greedy: list[Answer] = []

    async def one(number: int) -> None:
        greedy.append(await ask(service.port, chat(f"more {number}", TOKENS, GREEDY)))

    others, _ = await asyncio.gather(_others(service, seconds), open_loop(rate, seconds, one))
    return others, greedy


def run(size: Size) -> Report:
    """Compare the others' times beside a modest and a greedy client."""
    report = Report("fairness", "one greedy client does not slow the others")
    cpu = OwnCpu()
    modest, others, greedy = list[Answer](), list[Answer](), list[Answer]()
    with serving(size.model, apart=True) as service:
        asyncio.run(beside(service, 3, 1))
        for _ in range(ROUNDS):
            modest += asyncio.run(beside(service, size.seconds / ROUNDS, 1 / EVERY))[0]
            answers, more = asyncio.run(beside(service, size.seconds / ROUNDS, TIMES / EVERY))
            others += answers
            greedy += more
        for answer in (*modest, *others):
            report.count(None if answer.complete else f"another's request: {answer.status} {answer.code}".rstrip())
        report.notes |= {"greedy_sent": len(greedy), "greedy_finished": sum(answer.complete for answer in greedy)}
        for what in ("total", "first"):
            before, after = (percentile((getattr(a, what) for a in answers), 95) for answers in (modest, others))
            report.notes[f"others_{what}_p95_s"] = [before, after]
            ratio = after / before if before and after is not None else None
            figure = "whole answer" if what == "total" else "first token"
            report.check(f"others' p95, of what it is beside a modest client: {figure}", ratio, 1.25)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report
