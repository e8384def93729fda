"""Batches of more clients than the queue has places, and a client with one slow grammar after the other: the requests
of others find room all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from http import HTTPStatus

from benchmarks.proof import bodies
from benchmarks.proof.report import Report, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, TEXT, Answer, OwnCpu, ask, closed_loop, request
from edge.batch_places import RETRY_AFTER

BATCH = "/api/v1/text/batch"
BATCHES = 420  # of a client each; the queue has 128 places, there are 64 slots, and threads for 416 requests
TEXTS, TOKENS = 4, 2000  # of one batch, and of one of its texts
EVERY = 0.2  # seconds between two interactive requests
BEGIN_SECONDS = 3.0  # in which the batches come in
TIMES = 1.25  # as long as alone others may wait at most
AT_ONCE = 10  # slow grammars of the one client
OTHER, GREEDY = "198.51.100.3", "10.6.6.6"
_numbers: Iterator[int] = itertools.count()


async def beside_batches(service: Service, seconds: float, many: int = BATCHES) -> list[Answer]:
    """Return the answers to short requests of another client beside so many others, of which each has its batch again
    as soon as one has ended, and seconds after it was refused.
    """
    loop = asyncio.get_running_loop()
    texts = [{"prompt": f"Write {number}", "max_tokens": TOKENS} for number in range(TEXTS)]
    body = json.dumps({"prompts": texts}).encode()
    answers, until = list[Answer](), loop.time() + BEGIN_SECONDS + seconds

    async def again(client: str) -> None:
        while (left := until - loop.time()) > 0:
            answer = await ask(service.port, request(BATCH, body, client), left)
            await asyncio.sleep(RETRY_AFTER if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else 0)

    batches = [asyncio.create_task(again(f"10.{20 + n // 250}.{n % 250}.1")) for n in range(many)]
    await asyncio.sleep(BEGIN_SECONDS)
    while loop.time() < until:
        answers.append(await ask(service.port, request(TEXT, b'{"prompt":"hi","max_tokens":2}', OTHER)))
        await asyncio.sleep(EVERY)
    for batch in batches:
        batch.cancel()
        with suppress(asyncio.CancelledError):
            await batch
    return answers


async def beside_grammars(service: Service, seconds: float, slow: int) -> list[Answer]:
    """Return the answers of new small schemas, one after the other, beside so many slow grammars of another client."""
    answers: list[Answer] = []

    async def new_schema(_: int) -> None:
        schema = {"type": "object", "properties": {f"v{next(_numbers)}": {"type": "string", "maxLength": 5}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answers.append(await ask(service.port, request(CHAT, bodies.chat_body(response_format=form), OTHER)))

    async def slow_grammar(_: int) -> None:
        body = bodies.chat_body(guided_grammar=bodies.slow_grammar(next(_numbers)))
        await ask(service.port, request(CHAT, body, GREEDY))

    await asyncio.gather(*(_loop(*one, seconds) for one in ((slow, slow_grammar), (1, new_schema))))
    return answers


async def _loop(clients: int, one: Callable[[int], Awaitable[None]], seconds: float) -> None:
    await closed_loop(clients, seconds, one)


def run(size: Size) -> Report:
    """Try both on one service."""
    report = Report("crowds", "batches and slow grammars leave room for the requests of others")
    cpu = OwnCpu()
    with serving(size.model) as service:
        asyncio.run(beside_grammars(service, 1.0, 0))
        alone = asyncio.run(beside_grammars(service, size.seconds, 0))
        beside = asyncio.run(beside_grammars(service, size.seconds, AT_ONCE))
        service.seconds_until_quiet()
        quiet = asyncio.run(beside_batches(service, size.seconds, 0))
        batches = asyncio.run(beside_batches(service, size.seconds))
        for what, answers in (("a new schema", [*alone, *beside]), ("beside batches", [*quiet, *batches])):
            for answer in answers:
                report.count(None if answer.status == 200 else f"{what}: {answer.status} {answer.code}".rstrip())
        _compare(report, "new_schema", "a new schema p95 beside slow grammars", alone, beside)
        _compare(report, "interactive", "an interactive request p95 beside batches", quiet, batches)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


def _compare(report: Report, name: str, figure: str, alone: list[Answer], beside: list[Answer]) -> None:
    before, after = (percentile((answer.total for answer in answers), 95) for answers in (alone, beside))
    report.notes[f"{name}_p95_s"] = [before, after]
    report.check(f"{figure}, of alone", after / before if before and after else None, TIMES)
