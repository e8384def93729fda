"""One client that asks for a hundred times its share, beside others that keep to theirs."""

from __future__ import annotations

import asyncio
from collections import Counter

from benchmarks.proof.report import Report, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import Answer, OwnCpu, ask, chat, open_loop

OTHERS = 10
EVERY = 1.0  # seconds between two requests of a client that keeps to its share
TOKENS = 64
TIMES = 100
GREEDY_TOKENS = {"": TOKENS, ", of one token each": 1}  # a client may ask for much at once, or often
ROUNDS = 10  # in which they take turns: a machine's pace changes within seconds by more than is looked for
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


async def beside(
    service: Service, seconds: float, rate: float, tokens: int = TOKENS
) -> tuple[list[Answer], list[Answer]]:
    """Return the answers of the others, and of the greedy client with `rate` requests a second of so many tokens."""
    greedy: list[Answer] = []

    async def one(number: int) -> None:
        greedy.append(await ask(service.port, chat(f"more {number}", tokens, GREEDY)))

    others, _ = await asyncio.gather(_others(service, seconds), open_loop(rate, seconds, one))
    return others, greedy


def run(size: Size) -> Report:
    """Compare the others' times beside a modest and a greedy client."""
    report = Report("fairness", "one greedy client does not slow the others")
    cpu = OwnCpu()
    modest = list[Answer]()
    others: dict[str, list[Answer]] = {kind: [] for kind in GREEDY_TOKENS}
    greedy: dict[str, list[Answer]] = {kind: [] for kind in GREEDY_TOKENS}
    with serving(size.model, apart=True) as service:
        asyncio.run(beside(service, 3, 1))
        for _ in range(ROUNDS):
            modest += asyncio.run(beside(service, size.seconds / ROUNDS, 1 / EVERY))[0]
            for kind, tokens in GREEDY_TOKENS.items():
                answers, more = asyncio.run(beside(service, size.seconds / ROUNDS, TIMES / EVERY, tokens))
                others[kind] += answers
                greedy[kind] += more
        for answer in (*modest, *(answer for answers in others.values() for answer in answers)):
            report.count(None if answer.complete else f"another's request: {answer.status} {answer.code}".rstrip())
        for kind, answers in others.items():
            report.notes |= {f"greedy_{what}{kind}": figure for what, figure in _had(greedy[kind]).items()}
            _compare(report, kind, modest, answers)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


def _had(answers: list[Answer]) -> dict[str, object]:
    """Return what the greedy client got: nothing is promised to it, yet a service that is idle should not refuse it."""
    finished = [answer for answer in answers if answer.complete]
    others = Counter(f"{answer.status} {answer.code or answer.trouble}" for answer in answers if not answer.complete)
    return {
        "sent": len(answers),
        "finished": len(finished),
        "unfinished": dict(others),
        "total_p95_s": percentile((answer.total for answer in finished), 95),
    }


def _compare(report: Report, kind: str, modest: list[Answer], others: list[Answer]) -> None:
    for what, figure in (("total", "whole answer"), ("first", "first token")):
        before, after = (percentile((getattr(a, what) for a in answers), 95) for answers in (modest, others))
        report.notes[f"others_{what}_p95_s{kind}"] = [before, after]
        ratio = after / before if before and after is not None else None
        report.check(f"others' p95, of what it is beside a modest client: {figure}{kind}", ratio, 1.25)
